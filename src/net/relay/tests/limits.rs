//! More clients than there is room for, and fewer descriptors than are needed: clients wait, and the relay does not spin.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::tcp::REST;
use super::tcp::tcp;
use super::*;

#[test]
fn more_than_there_is_room_for_wait() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).unwrap();
    let (mut relay, address, server) = tcp();
    let (mut clients, mut served) = while_served(&mut relay, || {
        thread::scope(|scope| {
            let served = scope.spawn(|| (0..256).map(|_| server.accept().unwrap().0).collect::<Vec<_>>());
            let mut clients: Vec<_> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                client.write_all(&[(number % 251) as u8]).unwrap();
            }
            (clients, served.join().unwrap())
        })
    });
    serve_until(&mut relay, is_quiet);
    assert_eq!(relay.tcp.len(), 256);
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    server.set_nonblocking(false).unwrap();
    while_served(&mut relay, || {
        let send_back = |mut socket: TcpStream| {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            socket.write_all(&byte).unwrap();
        };
        served.drain(..).for_each(send_back);
        // A client that has its answer makes room for one that waits.
        for (number, mut client) in clients.drain(..).enumerate() {
            if number >= 256 {
                send_back(server.accept().unwrap().0);
            }
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [(number % 251) as u8]);
        }
    });
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}

#[test]
fn without_descriptors_clients_wait_and_the_relay_too() {
    // In a process of its own, because the limit is one of a process.
    const NAME: &str = "net::relay::tests::limits::without_descriptors_clients_wait_and_the_relay_too";
    if std::env::var_os("MINIRUN_TEST_ALONE").is_none() {
        #[allow(clippy::disallowed_methods)]
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let test = test.args([NAME, "--exact", "--nocapture"]).env("MINIRUN_TEST_ALONE", "1").output().unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
        assert!(String::from_utf8_lossy(&test.stdout).contains("1 passed"));
        return;
    }
    let (mut relay, address, server) = tcp();
    let client = TcpStream::connect(address).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The lowest number that is free is the limit: no room for one more, then for one side of a connection only.
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    for room in [0, 1] {
        setrlimit(Resource::RLIMIT_NOFILE, free + room, hard).unwrap();
        let before = Instant::now();
        relay.serve();
        assert!(relay.tcp.len() == 0 && is_quiet(&relay));
        assert!(relay.timeout().is_some_and(|timeout| timeout <= REST + Duration::from_millis(1)));
        serve_until(&mut relay, |_| before.elapsed() >= REST);
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    serve_until(&mut relay, |relay| relay.tcp.len() == 1);
    assert_eq!(relay.timeout(), None);
    drop((client, server.accept().unwrap()));
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}
