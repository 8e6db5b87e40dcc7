//! What the default filter keeps shut and a container can be given, by name: `--security-opt allow=NAME`.
//!
//! Used by the build script too, so it knows nothing but the standard library.

/// What is open. By default nothing but the usual families of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Openings {
    /// Bit N is the family N of socket(2); all ones is every family, also those without a name here.
    pub families: u64,
    /// `io_uring_setup`, `io_uring_enter`, `io_uring_register`.
    pub io_uring: bool,
    /// User namespaces made or entered inside: `clone`, `clone3`, `unshare`, `setns`.
    pub userns: bool,
    /// `add_key`, `request_key`, `keyctl`.
    pub keyring: bool,
    /// The ioctls `TIOCSTI` and `TIOCLINUX`, which type into a terminal.
    pub tiocsti: bool,
    /// The 32-bit x86 call that hides the family of a socket behind a pointer, where no filter sees it.
    pub socketcall: bool,
    /// The numbers of x32.
    pub x32: bool,
}

/// Families that are open by default: unix, inet, inet6, netlink and packet (which takes `CAP_NET_RAW` besides).
const USUAL: u64 = 1 << 1 | 1 << 2 | 1 << 10 | 1 << 16 | 1 << 17;

/// Names and numbers of families (`AF_*` of include/linux/socket.h).
const FAMILIES: [(&str, u8); 45] = [
    ("unix", 1),
    ("inet", 2),
    ("ax25", 3),
    ("ipx", 4),
    ("appletalk", 5),
    ("netrom", 6),
    ("bridge", 7),
    ("atmpvc", 8),
    ("x25", 9),
    ("inet6", 10),
    ("rose", 11),
    ("decnet", 12),
    ("netbeui", 13),
    ("security", 14),
    ("key", 15),
    ("netlink", 16),
    ("packet", 17),
    ("ash", 18),
    ("econet", 19),
    ("atmsvc", 20),
    ("rds", 21),
    ("sna", 22),
    ("irda", 23),
    ("pppox", 24),
    ("wanpipe", 25),
    ("llc", 26),
    ("ib", 27),
    ("mpls", 28),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("iucv", 32),
    ("rxrpc", 33),
    ("isdn", 34),
    ("phonet", 35),
    ("ieee802154", 36),
    ("caif", 37),
    ("alg", 38),
    ("nfc", 39),
    ("vsock", 40),
    ("kcm", 41),
    ("qipcrtr", 42),
    ("smc", 43),
    ("xdp", 44),
    ("mctp", 45),
];

impl Default for Openings {
    fn default() -> Self {
        Self {
            families: USUAL,
            io_uring: false,
            userns: false,
            keyring: false,
            tiocsti: false,
            socketcall: false,
            x32: false,
        }
    }
}

impl Openings {
    /// The names that are no family's. `sockets` is all families, and so `socketcall` too.
    pub const NAMES: [&str; 7] = ["io_uring", "userns", "keyring", "tiocsti", "sockets", "socketcall", "x32"];

    /// Opens what has this name; whether there is such a thing.
    pub fn open(&mut self, name: &str) -> bool {
        match name {
            "io_uring" => self.io_uring = true,
            "userns" => self.userns = true,
            "keyring" => self.keyring = true,
            "tiocsti" => self.tiocsti = true,
            "sockets" => (self.families, self.socketcall) = (u64::MAX, true),
            "socketcall" => self.socketcall = true,
            "x32" => self.x32 = true,
            family => match FAMILIES.iter().find(|(known, _)| *known == family) {
                Some((_, number)) => self.families |= 1 << number,
                None => return false,
            },
        }
        true
    }

    /// What is open beside the usual: [`open`](Self::open) makes the same of these names.
    pub fn names(&self) -> Vec<&'static str> {
        let all = self.families == u64::MAX;
        let flags = [self.io_uring, self.userns, self.keyring, self.tiocsti, all, self.socketcall && !all, self.x32];
        let named = Self::NAMES.into_iter().zip(flags).filter(|(_, open)| *open).map(|(name, _)| name);
        let extra = if all { 0 } else { self.families & !USUAL };
        named.chain(FAMILIES.iter().filter(|(_, number)| extra & 1 << number != 0).map(|(name, _)| *name)).collect()
    }
}
