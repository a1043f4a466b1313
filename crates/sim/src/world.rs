//! One run: a broker, its daemons and their agents, on one thread and in virtual time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::{PeerStatus, Priority};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, GROUP, Identity, Order, Sender, request};
use crate::attack::Attacker;
use crate::broker_node::{BrokerNode, SimClock};
use crate::daemon_node::{AgentProcesses, DaemonNode, Surroundings};
use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::ledger::{Address, Ledger, Letter, Outcome};
use crate::network::{LinkState, Network};
use crate::overheard::Overheard;
use crate::rows::Rows;
use crate::trace::Trace;

/// Longest wait for a node to start again.
const START_ATTEMPTS: u32 = 60;

/// Everything of one run.
pub(crate) struct World {
    pub(crate) dice: Mutex<Dice>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) network: Arc<Network>,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) broker: BrokerNode,
    /// The wall clock of all daemons.
    pub(crate) daemon_clock: Arc<SimClock>,
    pub(crate) daemons: Vec<Arc<DaemonNode>>,
    pub(crate) agents: Vec<Arc<Agent>>,
    /// In every second run.
    pub(crate) attacker: Option<Attacker>,
    pub(crate) ledger: Arc<Ledger>,
    /// The broker's delivery rows as they were seen.
    pub(crate) rows: Rows,
    pub(crate) tasks: TaskTracker,
    senders: Vec<(usize, Option<usize>, Sender)>,
    started: Instant,
}

impl World {
    /// Makes everything and starts it.
    pub(crate) async fn build(
        seed: u64,
        root: &Path,
        trace: Arc<Trace>,
        daemon_clock: Arc<SimClock>,
        disk: Arc<SimDisk>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut dice = Dice::new(seed, "world");
        let daemon_count = dice.weighted(&[(3, 2_usize), (4, 3), (2, 4)], 3);
        let hostile = Attacker::dice(seed);
        let overheard = hostile.is_some().then(|| Arc::new(Overheard::default()));
        let network = Network::new(seed, daemon_count + 1, Arc::clone(&trace), overheard.clone());
        let broker = BrokerNode::new(root, &network, &disk, &trace);
        let mut made = broker.provision(daemon_count + usize::from(hostile.is_some())).await?;
        let attacker = match (hostile, overheard) {
            (Some(dice), Some(overheard)) => {
                let member = made.members.pop().context("the attacker's membership")?;
                Some(Attacker::new(dice, daemon_count, overheard, made.mesh_id.clone(), &member)?)
            }
            _ => None,
        };
        let surroundings = Surroundings {
            root: root.to_owned(),
            network: Arc::clone(&network),
            disk: Arc::clone(&disk),
            trace: Arc::clone(&trace),
            processes: Arc::new(AgentProcesses::default()),
        };
        let mut daemons = Vec::new();
        for (index, member) in made.members.iter().enumerate() {
            let keys = KeyPair::from_hex(&member.secret_key)?;
            daemons.push(Arc::new(DaemonNode::install(
                index,
                &surroundings,
                &made.mesh_id,
                &member.member_id,
                keys,
            )?));
        }
        let (ledger, tasks) = (Arc::new(Ledger::default()), TaskTracker::new());
        let mut agents = Vec::new();
        let mut senders = Vec::new();
        for daemon in &daemons {
            senders.push((daemon.index, None));
            for _ in 0..dice.number(1..=2) {
                let identity = Identity {
                    index: agents.len(),
                    session: dice.bytes16(),
                    token: dice.bytes32(),
                    is_in_group: dice.chance(60),
                };
                senders.push((daemon.index, Some(agents.len())));
                agents.push(Agent::new(
                    &identity,
                    Arc::clone(daemon),
                    Arc::clone(&ledger),
                    Arc::clone(&trace),
                    Arc::clone(&surroundings.processes),
                ));
            }
        }
        let senders = senders
            .into_iter()
            .filter_map(|(daemon, agent)| {
                let node = Arc::clone(daemons.get(daemon)?);
                let speaker = agent.and_then(|agent| agents.get(agent)).cloned();
                let (ledger, trace) = (Arc::clone(&ledger), Arc::clone(&trace));
                Some((daemon, agent, Sender::start(node, speaker, ledger, trace, &tasks)))
            })
            .collect();
        let world = Arc::new(Self {
            dice: Mutex::new(dice),
            trace,
            network,
            disk,
            broker,
            daemon_clock,
            daemons,
            agents,
            attacker,
            ledger,
            rows: Rows::default(),
            tasks,
            senders,
            started: Instant::now(),
        });
        world.broker.start().await?;
        for daemon in &world.daemons {
            daemon.start().await?;
        }
        for agent in &world.agents {
            agent.begin(&world.tasks);
        }
        Ok(world)
    }

    /// Virtual time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Somebody sends a letter to somebody.
    pub(crate) fn send_letter(&self) {
        let mut dice = self.dice.lock();
        let Some((daemon, agent, sender)) = dice.pick(&self.senders) else { return };
        let to = self.draw_address(&mut dice, *daemon, *agent);
        let Some((to, text)) = to else { return };
        let priority = dice.weighted(
            &[(25, Priority::Now), (60, Priority::Next), (15, Priority::Low)],
            Priority::Next,
        );
        let may_expire = dice.chance(4);
        let client_message_id = format!("letter-{}", hex::encode(dice.bytes16()));
        let number = self.ledger.write(Letter {
            daemon: *daemon,
            to,
            priority,
            client_message_id: client_message_id.clone(),
            may_expire,
            outcome: Outcome::Unknown,
        });
        let mut request = request(number, text, &client_message_id);
        request.priority = Some(priority);
        request.expires_in_s = may_expire.then(|| dice.number(5..=60));
        drop(dice);
        self.trace.note(&format!("letter {number} from d{daemon} {agent:?} to {to:?} {priority}"));
        if !sender.send(Order { number, request }) {
            self.ledger.told(number, Outcome::Refused("the queue is full".to_owned()));
        }
    }

    fn draw_address(
        &self,
        dice: &mut Dice,
        daemon: usize,
        agent: Option<usize>,
    ) -> Option<(Address, String)> {
        let kind = dice.weighted(&[(30, 0), (50, 1), (10, 2), (10, 3)], 1);
        match kind {
            0 => {
                let others: Vec<_> =
                    self.daemons.iter().filter(|other| other.index != daemon).collect();
                let other = dice.pick(&others)?;
                Some((Address::Member(other.index), other.member.to_hex()))
            }
            1 => {
                let others: Vec<_> =
                    self.agents.iter().filter(|other| Some(other.index) != agent).collect();
                let other = dice.pick(&others)?;
                // A person of the same member reaches its own sessions by other ways.
                if other.daemon.index == daemon && agent.is_none() {
                    return None;
                }
                Some((Address::Agent(other.index), other.key()?.to_hex()))
            }
            2 => Some((Address::Everyone, "*".to_owned())),
            _ => Some((Address::Group, format!("@{GROUP}"))),
        }
    }

    /// True when no sender has anything left to send, as far as their queues say.
    pub(crate) fn is_quiet(&self) -> bool {
        self.senders.iter().all(|(_, _, sender)| sender.is_idle())
    }

    /// Starts the broker, again and again until it runs.
    pub(crate) async fn start_broker(&self) {
        for _ in 0..START_ATTEMPTS {
            if self.broker.is_up() {
                return;
            }
            match self.broker.start().await {
                Ok(()) => return,
                Err(error) => self.trace.note(&format!("broker not started: {error:#}")),
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.ledger.violated("the broker did not start again".to_owned());
    }

    /// Starts a daemon, again and again until it runs.
    pub(crate) async fn start_daemon(&self, daemon: &DaemonNode) {
        for _ in 0..START_ATTEMPTS {
            if daemon.is_up() {
                return;
            }
            match daemon.start().await {
                Ok(()) => return,
                Err(error) => self.trace.note(&format!("daemon not started: {error:#}")),
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.ledger.violated(format!("daemon {} did not start again", daemon.index));
    }

    /// Ends every fault: links open, disks take and are quick, nodes run.
    pub(crate) async fn calm_down(&self) {
        self.trace.note("calm");
        for daemon in &self.daemons {
            self.network.set_link(daemon.index, LinkState::Open);
            self.disk.set_full(&daemon.dir(), false);
            self.disk.set_slow(&daemon.dir(), false);
        }
        self.disk.set_full(&self.broker.dir(), false);
        self.disk.set_slow(&self.broker.dir(), false);
        self.start_broker().await;
        for daemon in &self.daemons {
            self.start_daemon(daemon).await;
        }
    }

    /// Everybody has time for messages; needs the broker.
    pub(crate) async fn be_idle(&self) {
        for agent in self.agents.iter().filter(|agent| agent.is_alive()) {
            agent.set_by_hand(PeerStatus::Idle).await;
            agent.report(Some(PeerStatus::Idle), None).await;
        }
    }
}
