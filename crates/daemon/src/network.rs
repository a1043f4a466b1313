//! Noticing that the machine woke up or has another network, so that connections need not wait for a watchdog (daemon
//! spec §6.3). The kernel tells both; where it does not, the watchdog of each connection is the safety net.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::daemon::Daemon;

/// Addresses and routes change in bursts; one look is enough for each.
const SETTLE: Duration = Duration::from_secs(1);
/// Groups of rtnetlink(7): changes of IPv4 and IPv6 addresses and of IPv4 routes. Links alone come and go with every
/// container, and say nothing about the way to a broker.
const GROUPS: u32 = 0x10 | 0x100 | 0x40;

/// Wakes the connections when the kernel tells of a change, until the daemon stops.
pub(crate) async fn watch(daemon: Daemon) {
    if crate::clock::is_simulated() {
        return;
    }
    let stopping = daemon.stopping();
    let routes = notices(route_socket());
    let clock = notices(clock_timer());
    if routes.is_none() && clock.is_none() {
        tracing::debug!("network_changes_not_told");
        return;
    }
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = told(routes.as_ref()) => {}
            () = told(clock.as_ref()) => {
                // One notice disarms the timer.
                if let Some(clock) = &clock {
                    arm(clock.get_ref());
                }
            }
        }
        tracing::debug!("network_changed");
        daemon.meshes().network_changed();
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

/// A socket of `NETLINK_ROUTE`, which is the protocol 0.
fn route_socket() -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = socket.ok()?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS)).ok()?;
    Some(socket)
}

/// A timer that never fires, but is cancelled when the wall clock jumps, as it does at the end of a sleep.
fn clock_timer() -> Option<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok()?;
    arm(&timer).then_some(timer)
}

fn arm(timer: &OwnedFd) -> bool {
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: i64::from(i32::MAX) * 64, tv_nsec: 0 },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never).is_ok()
}

fn notices(fd: Option<OwnedFd>) -> Option<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an owned descriptor is what it asks for"
    )]
    AsyncFd::with_interest(fd?, Interest::READABLE).ok()
}

/// Returns after the kernel told something; never, where it does not tell.
async fn told(notices: Option<&AsyncFd<OwnedFd>>) {
    let Some(notices) = notices else { return std::future::pending().await };
    let Ok(mut ready) = notices.readable().await else { return std::future::pending().await };
    let mut buffer = [0_u8; 4096];
    // What changed does not matter: connections find out themselves. Reading until it is empty re-arms the notice.
    while rustix::io::read(notices.get_ref(), &mut buffer).is_ok_and(|bytes| bytes > 0) {}
    ready.clear_ready();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_lets_itself_be_asked() {
        for fd in [route_socket(), clock_timer()] {
            let Some(notices) = notices(fd) else { continue };
            let told = tokio::time::timeout(Duration::from_millis(50), told(Some(&notices))).await;
            assert!(told.is_err(), "nothing has changed");
        }
    }
}
