//! What a service manager hears of the daemon (daemon spec §1.2 step 12, §21: `Type=notify`).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::local::process::{command, ended};
use crate::local::world::Home;

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_hears_of_start_and_stop() {
    let home = Home::new();
    let path = home.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut child = command(&home).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let hear = || {
        let mut said = [0; 64];
        let length = manager.recv(&mut said).unwrap();
        String::from_utf8_lossy(&said[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    assert!(home.paths.default_socket().exists(), "whoever waited for it finds it serving");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(ended(&mut child).await.success());
}
