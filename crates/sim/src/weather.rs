//! What goes wrong in a run, and when. Which kinds of faults a run has is drawn first, so that some runs have few kinds
//! and many of each.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::session::HookEvent;
use claudemesh_protocol::PeerStatus;
use tokio::time::sleep;

use crate::agent::Manner;
use crate::disk::Death;
use crate::network::{Cut, LinkState};
use crate::world::World;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    Letter,
    Status,
    AgentEnds,
    AgentReturns,
    DaemonDies(Death),
    DaemonStops,
    BrokerDies(Death),
    BrokerStops,
    LinkStalls,
    LinkCut(Cut),
    ConnectionCut(Cut),
    DaemonClockJumps,
    BrokerClockJumps,
    DiskFull,
    DiskSlow,
}

use Happening as H;

/// Faults that a run may have, with their weights next to 100 for letters.
const FAULTS: &[&[(u32, Happening)]] = &[
    &[(10, H::Status)],
    &[(4, H::AgentEnds), (6, H::AgentReturns)],
    &[(5, H::DaemonDies(Death::Kill))],
    &[(5, H::DaemonDies(Death::PowerFailure))],
    &[(3, H::DaemonStops)],
    &[(4, H::BrokerDies(Death::Kill))],
    &[(4, H::BrokerDies(Death::PowerFailure))],
    &[(3, H::BrokerStops)],
    &[(6, H::LinkStalls)],
    &[(5, H::LinkCut(Cut::Reset)), (8, H::ConnectionCut(Cut::Reset))],
    &[(3, H::LinkCut(Cut::Silence)), (4, H::ConnectionCut(Cut::Silence))],
    &[(3, H::DaemonClockJumps)],
    &[(3, H::BrokerClockJumps)],
    &[(3, H::DiskFull)],
    &[(4, H::DiskSlow)],
];

/// Longest time a clock goes wrong at once, in milliseconds.
const JUMP_MAX_MS: u64 = 5 * 60 * 1000;
/// Most a clock is wrong, in milliseconds.
const OFFSET_MAX_MS: i64 = 10 * 60 * 1000;

/// Lets things happen until the run has had enough.
pub(crate) async fn storm(world: &Arc<World>) {
    let (choices, happenings, pace_ms) = {
        let mut dice = world.dice.lock();
        let mut choices = vec![(100, H::Letter)];
        for fault in FAULTS {
            if dice.chance(55) {
                choices.extend_from_slice(fault);
            }
        }
        let pace_ms = dice.weighted(&[(3, 300), (4, 1_500), (2, 6_000)], 1_500);
        (choices, dice.number(25..=70), pace_ms)
    };
    let kinds: Vec<_> = choices.iter().map(|(_, happening)| format!("{happening:?}")).collect();
    world.trace.note(&format!("weather: {}", kinds.join(" ")));
    for _ in 0..happenings {
        let (wait, happening) = {
            let mut dice = world.dice.lock();
            (dice.millis(0..=pace_ms), dice.weighted(&choices, H::Letter))
        };
        sleep(wait).await;
        happen(world, happening).await;
    }
}

async fn happen(world: &Arc<World>, happening: Happening) {
    match happening {
        H::Letter => {
            let burst = world.dice.lock().weighted(&[(70, 1), (25, 4), (5, 12)], 1);
            for _ in 0..burst {
                world.send_letter();
            }
        }
        H::Status => {
            let (agent, status, event) = {
                let mut dice = world.dice.lock();
                let statuses = [PeerStatus::Idle, PeerStatus::Working, PeerStatus::Dnd];
                let events = [HookEvent::Prompt, HookEvent::Tool, HookEvent::Stop];
                let is_event = dice.chance(50);
                let status = dice.pick(&statuses).copied().filter(|_| !is_event);
                let event = dice.pick(&events).copied().filter(|_| is_event);
                (dice.pick(&world.agents).cloned(), status, event)
            };
            if let Some(agent) = agent.filter(|agent| agent.is_alive()) {
                world.trace.note(&format!("agent {}: {status:?} {event:?}", agent.index));
                world.tasks.spawn(async move {
                    match status {
                        Some(PeerStatus::Dnd) => agent.set_by_hand(PeerStatus::Dnd).await,
                        status => agent.report(status, event).await,
                    }
                });
            }
        }
        H::AgentEnds => {
            let (agent, manner) = {
                let mut dice = world.dice.lock();
                let manner = if dice.chance(50) { Manner::SaysGoodbye } else { Manner::Vanishes };
                (dice.pick(&world.agents).cloned(), manner)
            };
            if let Some(agent) = agent {
                world.tasks.spawn(async move { agent.end(manner).await });
            }
        }
        H::AgentReturns => {
            let gone: Vec<_> =
                world.agents.iter().filter(|agent| !agent.is_alive()).cloned().collect();
            if let Some(agent) = world.dice.lock().pick(&gone) {
                agent.begin(&world.tasks);
            }
        }
        H::DaemonDies(death) => restart_daemon(world, Some(death)).await,
        H::DaemonStops => restart_daemon(world, None).await,
        H::BrokerDies(death) => restart_broker(world, Some(death)).await,
        H::BrokerStops => restart_broker(world, None).await,
        H::LinkStalls | H::LinkCut(_) | H::ConnectionCut(_) => trouble_link(world, happening),
        H::DaemonClockJumps | H::BrokerClockJumps => jump(world, happening),
        H::DiskFull | H::DiskSlow => trouble_disk(world, happening),
    }
}

async fn restart_daemon(world: &Arc<World>, death: Option<Death>) {
    let (daemon, pause) = {
        let mut dice = world.dice.lock();
        (dice.pick(&world.daemons).cloned(), dice.millis(0..=20_000))
    };
    let Some(daemon) = daemon.filter(|daemon| daemon.is_up()) else { return };
    match death {
        Some(death) => {
            if let Err(error) = daemon.die(death) {
                world.ledger.violated(format!("the simulation failed: {error:#}"));
            }
        }
        None => daemon.stop().await,
    }
    let world_then = Arc::clone(world);
    world.tasks.spawn(async move {
        sleep(pause).await;
        world_then.start_daemon(&daemon).await;
    });
}

async fn restart_broker(world: &Arc<World>, death: Option<Death>) {
    let pause = world.dice.lock().millis(0..=20_000);
    if !world.broker.is_up() {
        return;
    }
    match death {
        Some(death) => {
            if let Err(error) = world.broker.die(death).await {
                world.ledger.violated(format!("the simulation failed: {error:#}"));
            }
        }
        None => world.broker.stop().await,
    }
    let world_then = Arc::clone(world);
    world.tasks.spawn(async move {
        sleep(pause).await;
        world_then.start_broker().await;
    });
}

fn trouble_link(world: &Arc<World>, happening: Happening) {
    let (link, pause, is_cut_after) = {
        let mut dice = world.dice.lock();
        let pause = dice.weighted(&[(5, 3_000), (3, 30_000), (2, 200_000)], 3_000);
        (dice.index(world.daemons.len()), dice.millis(100..=pause), dice.chance(40))
    };
    world.trace.note(&format!("link {link}: {happening:?}"));
    match happening {
        H::LinkCut(cut) => world.network.cut_link(link, cut),
        H::ConnectionCut(cut) => world.network.cut_one(link, cut),
        _ => {
            world.network.set_link(link, LinkState::Stalled);
            let network = Arc::clone(&world.network);
            world.tasks.spawn(async move {
                sleep(pause).await;
                if is_cut_after {
                    network.cut_link(link, Cut::Reset);
                }
                network.set_link(link, LinkState::Open);
            });
        }
    }
}

fn jump(world: &World, happening: Happening) {
    let clock = match happening {
        H::DaemonClockJumps => &world.daemon_clock,
        _ => &world.broker.clock,
    };
    let mut dice = world.dice.lock();
    let by = i64::try_from(dice.number(1_000..=JUMP_MAX_MS)).unwrap_or_default();
    let by = if dice.chance(50) { -by } else { by };
    drop(dice);
    if (clock.offset_ms() + by).abs() <= OFFSET_MAX_MS {
        world.trace.note(&format!("{happening:?} by {by} ms"));
        clock.jump(by);
    }
}

fn trouble_disk(world: &Arc<World>, happening: Happening) {
    let (place, pause) = {
        let mut dice = world.dice.lock();
        (dice.index(world.daemons.len() + 1), dice.millis(1_000..=20_000))
    };
    let dir = world.daemons.get(place).map_or_else(|| world.broker.dir(), |daemon| daemon.dir());
    world.trace.note(&format!("machine {place}: {happening:?}"));
    let set = move |disk: &crate::disk::SimDisk, is_on| match happening {
        H::DiskFull => disk.set_full(&dir, is_on),
        _ => disk.set_slow(&dir, is_on),
    };
    set(&world.disk, true);
    let disk = Arc::clone(&world.disk);
    world.tasks.spawn(async move {
        sleep(Duration::max(pause, Duration::from_secs(1))).await;
        set(&disk, false);
    });
}
