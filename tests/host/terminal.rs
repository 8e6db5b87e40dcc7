//! A program on a terminal: the test holds the other end, and plays the keyboard, the screen and the window's frame.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use super::call::Held;

/// A program whose standard streams are one terminal, which is also its controlling terminal.
pub struct Terminal {
    child: Held,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// The program's side, kept open so that its modes can be read after the program's end.
    line: OwnedFd,
    gone: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

/// A program whose terminal has gone.
pub struct HungUp(Held);

impl HungUp {
    pub fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }
}

impl Terminal {
    /// Starts `program` on a new terminal of that size.
    pub fn start(program: &str, arguments: &[&str], rows: u16, columns: u16) -> Terminal {
        eprintln!("$ {program} {}", arguments.join(" "));
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).expect("openpt");
        grantpt(&keyboard).expect("grantpt");
        unlockpt(&keyboard).expect("unlockpt");
        let line = ioctl_tiocgptpeer(&keyboard, flags).expect("peer");
        let mut command = Command::new("setsid");
        // `setsid` executes the program in its own place, so the child's number is the program's.
        command.args(["--ctty", program]).args(arguments);
        let end = || line.try_clone().expect("dup");
        command.stdin(end()).stdout(end()).stderr(end());
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let mut window = keyboard.try_clone().expect("dup");
        let shown = Arc::clone(&screen);
        let gone = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&gone);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !closed.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(window.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ready, 20u8) == Ok(0) {
                    continue;
                }
                let Ok(size @ 1..) = window.read(&mut buffer) else { break };
                shown.lock().expect("no panic").extend_from_slice(&buffer[..size]);
            }
        });
        set_size(&keyboard, rows, columns);
        Terminal { child: Held::new(command.spawn().expect("setsid")), keyboard, screen, line, gone, reader }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keyboard");
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.keyboard, rows, columns);
    }

    /// Takes the window away.
    pub fn hang_up(self) -> HungUp {
        self.gone.store(true, Ordering::Relaxed);
        self.reader.join().expect("reader");
        HungUp(self.child)
    }

    /// Forgets what it has shown, so that `shows` waits for something new.
    pub fn clear(&self) {
        self.screen.lock().expect("no panic").clear();
    }

    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic")).into_owned()
    }

    /// Waits until the screen has shown `words`, ten seconds at most.
    #[track_caller]
    pub fn shows(&self, words: &str) -> String {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let screen = self.screen();
            if screen.contains(words) {
                return screen;
            }
            assert!(Instant::now() < patience, "the terminal does not show `{words}` but: {screen:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn modes(&self) -> Termios {
        tcgetattr(self.line.as_fd()).expect("tcgetattr")
    }

    /// Whether lines are edited and echoed by the kernel, as a shell's user expects; raw mode is neither.
    pub fn is_cooked(&self) -> bool {
        self.modes().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the program's end: its exit code, or 128 and the signal's number.
    pub fn wait(&mut self) -> i32 {
        self.child.wait()
    }
}

fn set_size(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("window size");
}
