//! What the model is told, in which order: messages, events, the welcome, read marks (MCP spec §4).

use claudemesh_ipc::api::session::ServedClient;
use claudemesh_ipc::api::{Event, EventKind, InboxItem, MessageMode};
use claudemesh_protocol::Priority;
use claudemesh_protocol::limits::{
    CHANNEL_CATCH_UP_PUSHES, CHANNEL_ECHO_MEMORY, CHANNEL_INBOX_LINE_EVERY, CHANNEL_WELCOME_DELAY,
    CHANNEL_WELCOME_WAIT,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::channel::Notification;
use crate::link::News;
use crate::pace::{Budget, PresenceWindow, Recent};
use crate::session::Standing;
use crate::stdio::Output;
use crate::{
    Channel, announcement, clock, listener, message, resource, rpc, seen, server, unread, welcome,
};

/// The client no longer reads: the pipe has nothing left to do.
#[derive(Debug)]
struct ClientGone;

/// What the pipe needs to start.
pub(crate) struct Parts {
    /// Where notifications go.
    pub output: Output,
    /// News of the daemon.
    pub news_rx: mpsc::Receiver<News>,
    /// Turns to ready when the client may be written to.
    pub client_rx: watch::Receiver<server::Client>,
    /// Who the client is, once it has said so.
    pub served_rx: watch::Receiver<Option<ServedClient>>,
    /// Takes rows that were shown.
    pub marks: seen::Marks,
    /// Mesh pinned by the caller.
    pub mesh: Option<String>,
    /// Whether anything is pushed at all.
    pub channel: Channel,
    /// Tells a client that watches the inbox.
    pub watcher: resource::Watcher,
}

/// The pipe's memory.
pub(crate) struct Pipe {
    parts: Parts,
    standing: Option<Standing>,
    heard: Recent<(String, String, String)>,
    budget: Budget,
    presence: PresenceWindow,
    welcome: Welcome,
    unreachable: Unreachable,
    inbox_line: InboxLine,
}

/// Where the welcome stands.
enum Welcome {
    /// Waits for the client.
    Early,
    /// Due at this moment when the daemon is there; at the later one in any case.
    Due { at: Instant, latest: Instant },
    /// Sent, or not wanted.
    Done,
}

/// Why the pipe woke up.
enum Wake {
    /// The daemon said something; `None`: the link has ended.
    News(Option<Box<News>>),
    /// The client may be written to; false when it is gone.
    Ready(bool),
    /// A deadline of the pipe's own.
    Due,
}

/// What was said about a daemon that is not there; said at most once in the life of the process.
enum Unreachable {
    Never,
    /// Known, but the client was not ready to hear it.
    Untold(String),
    Told,
    /// Told, and the daemon came back.
    Over,
}

/// Messages of mode `inbox` that wait for their one line.
#[derive(Default)]
struct InboxLine {
    senders: Vec<String>,
    /// Messages since the server began.
    heard: usize,
    next_at: Option<Instant>,
}

impl Pipe {
    /// A pipe at its beginning.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            standing: None,
            heard: Recent::new(CHANNEL_ECHO_MEMORY),
            budget: Budget::default(),
            presence: PresenceWindow::default(),
            welcome: Welcome::Early,
            unreachable: Unreachable::Never,
            inbox_line: InboxLine::default(),
        }
    }

    /// Runs until the client is gone or nobody sends news.
    pub(crate) async fn run(mut self) {
        let ClientGone = self.talk().await;
    }

    async fn talk(&mut self) -> ClientGone {
        loop {
            let deadline = self.next_deadline();
            let is_early = matches!(self.welcome, Welcome::Early);
            let parts = &mut self.parts;
            // No branch loses anything when dropped: news stay queued, readiness and deadlines are looked up again.
            let wake = tokio::select! {
                news = parts.news_rx.recv() => Wake::News(news.map(Box::new)),
                is_ready = became_ready(&mut parts.client_rx), if is_early => Wake::Ready(is_ready),
                () = sleep_until(deadline), if deadline.is_some() => Wake::Due,
            };
            let outcome = match wake {
                Wake::News(Some(news)) => self.hear(*news).await,
                Wake::Ready(true) => self.greet().await,
                Wake::News(None) | Wake::Ready(false) => return ClientGone,
                Wake::Due => self.do_what_is_due().await,
            };
            if let Err(gone) = outcome {
                return gone;
            }
        }
    }

    /// The client is ready: the welcome gets its time, and a daemon known to be missing is told about.
    async fn greet(&mut self) -> Result<(), ClientGone> {
        let at = Instant::now() + CHANNEL_WELCOME_DELAY;
        self.welcome = Welcome::Due { at, latest: at + CHANNEL_WELCOME_WAIT };
        if let Unreachable::Untold(reason) = &self.unreachable {
            let reason = reason.clone();
            self.tell_unreachable(&reason).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, news: News) -> Result<(), ClientGone> {
        match news {
            News::Unreachable { reason } => match (&self.unreachable, &self.welcome) {
                (Unreachable::Never, Welcome::Early) => {
                    self.unreachable = Unreachable::Untold(reason);
                    Ok(())
                }
                (Unreachable::Never, _) => self.tell_unreachable(&reason).await,
                _ => Ok(()),
            },
            News::Connected(standing) => {
                self.parts.watcher.changed(Instant::now());
                self.parts.marks.use_client(standing.client.clone());
                self.standing = Some(standing);
                match self.unreachable {
                    Unreachable::Told => self.tell_connected().await,
                    Unreachable::Untold(_) => {
                        self.unreachable = Unreachable::Never;
                        Ok(())
                    }
                    Unreachable::Never | Unreachable::Over => Ok(()),
                }
            }
            News::Changed(standing) => {
                self.standing = Some(standing);
                Ok(())
            }
            News::Missed { items, is_complete } => {
                self.parts.watcher.changed(Instant::now());
                self.push_missed(items, is_complete).await
            }
            News::Event(event) => self.hear_event(event).await,
        }
    }

    async fn hear_event(&mut self, event: Event) -> Result<(), ClientGone> {
        if matches!(event.kind, EventKind::Message | EventKind::InboxDigest) {
            self.parts.watcher.changed(Instant::now());
        }
        match &event.kind {
            EventKind::Message => {
                let is_pushed = event.data.get("push").and_then(Value::as_bool).unwrap_or(true);
                match serde_json::from_value::<InboxItem>(event.data) {
                    // In mode `inbox` the daemon pushes nothing; the message still counts for the one line.
                    Ok(item) if is_pushed || self.mode() == MessageMode::Inbox => {
                        self.push(&item).await
                    }
                    Ok(_) => Ok(()),
                    Err(error) => {
                        tracing::warn!(%error, "a message event cannot be read");
                        Ok(())
                    }
                }
            }
            _ if self.mode() == MessageMode::Off => Ok(()),
            EventKind::PeerJoin | EventKind::PeerLeave => {
                let peer_move = announcement::peer_move(&event.data);
                if let Some(peer_move) =
                    peer_move.filter(|peer| Some(&peer.key) != self.own_key().as_ref())
                {
                    self.presence.add(Instant::now(), peer_move);
                }
                Ok(())
            }
            EventKind::InboxDigest => {
                self.announce(announcement::digest(&event.data, clock::now())).await
            }
            kind => match announcement::notification(kind, &event.data) {
                Some(notification) => self.announce(notification).await,
                None => Ok(()),
            },
        }
    }

    /// One message, unless it must not be pushed, is our own, or was pushed before.
    async fn push(&mut self, item: &InboxItem) -> Result<(), ClientGone> {
        let is_echo = self.own_key().as_deref() == Some(item.sender_pubkey.as_str())
            && item.subtype.as_deref() != Some("reminder");
        if item.priority == Priority::Low || item.digest || is_echo {
            return Ok(());
        }
        if !self.heard.insert(message::identity(item)) {
            return Ok(());
        }
        match self.mode() {
            MessageMode::Off => Ok(()),
            MessageMode::Inbox => {
                self.inbox_line.add(message::sender_name(item));
                Ok(())
            }
            MessageMode::Push => {
                let own = self.standing.as_ref().map(Standing::own_keys).unwrap_or_default();
                self.write(&message::notification(item, &own)).await?;
                tracing::debug!(inbox_id = %item.id, "message pushed");
                self.parts.marks.pushed(&item.id).await;
                Ok(())
            }
        }
    }

    async fn push_missed(
        &mut self,
        items: Vec<InboxItem>,
        is_complete: bool,
    ) -> Result<(), ClientGone> {
        let new: Vec<InboxItem> = items
            .into_iter()
            .filter(|item| !self.heard.contains(&message::identity(item)))
            .collect();
        for item in new.iter().take(CHANNEL_CATCH_UP_PUSHES) {
            self.push(item).await?;
        }
        let rest = new.len().saturating_sub(CHANNEL_CATCH_UP_PUSHES);
        if rest > 0 && self.mode() == MessageMode::Push {
            self.write(&announcement::more_waiting(rest, is_complete)).await?;
        }
        Ok(())
    }

    /// A notification that is no message: within the budget, and not in mode `off`.
    async fn announce(&mut self, notification: Notification) -> Result<(), ClientGone> {
        if self.mode() == MessageMode::Off || !self.budget.take(Instant::now()) {
            return Ok(());
        }
        self.write(&notification).await
    }

    async fn tell_unreachable(&mut self, reason: &str) -> Result<(), ClientGone> {
        self.unreachable = Unreachable::Told;
        if self.mode() == MessageMode::Off {
            return Ok(());
        }
        let text = format!(
            "[system] daemon_unreachable: no messages can come in, the claudemesh daemon is not running ({reason}). \
             Start it with: claudemesh daemon up"
        );
        self.write(&Notification::system("daemon_unreachable", &text)).await
    }

    async fn tell_connected(&mut self) -> Result<(), ClientGone> {
        self.unreachable = Unreachable::Over;
        for list in ["tools", "prompts", "resources"] {
            self.write_value(&rpc::notification(&format!("notifications/{list}/list_changed")))
                .await?;
        }
        if self.mode() == MessageMode::Off {
            return Ok(());
        }
        let notification = Notification::system(
            "daemon_connected",
            "[system] daemon_connected: messages come in again",
        )
        .with_some("mesh_slug", self.mesh());
        self.write(&notification).await
    }

    async fn do_what_is_due(&mut self) -> Result<(), ClientGone> {
        let now = Instant::now();
        if let Some(updated) = self.parts.watcher.take(now) {
            self.write_value(&updated).await?;
        }
        if self.presence.closes_at().is_some_and(|at| at <= now)
            && let Some(notification) = self.presence.close()
        {
            self.announce(notification).await?;
        }
        if self.budget.report_at().is_some_and(|at| at <= now)
            && let Some(notification) = self.budget.report(now)
            && self.mode() != MessageMode::Off
        {
            self.write(&notification).await?;
        }
        if self.inbox_line.due_at().is_some_and(|at| at <= now) {
            let unread = self.unread_count().await;
            let line = self.inbox_line.take(now, unread);
            self.write(&line).await?;
        }
        match self.welcome {
            Welcome::Due { at, latest }
                if (at <= now && self.standing.is_some()) || latest <= now =>
            {
                self.say_welcome().await
            }
            _ => Ok(()),
        }
    }

    async fn say_welcome(&mut self) -> Result<(), ClientGone> {
        self.welcome = Welcome::Done;
        let mesh = self.mesh().map(str::to_owned);
        let mut facts = match &self.standing {
            Some(standing) => welcome::facts(&standing.client, mesh.as_deref()).await,
            None => welcome::Facts::default(),
        };
        let mode = self.mode();
        if mode == MessageMode::Off {
            return Ok(());
        }
        if let (Some(page), MessageMode::Push) = (&mut facts.unread, mode) {
            // Pushed already; their read marks may still be on the way.
            page.items.retain(|item| !self.heard.contains(&message::identity(item)));
        }
        let welcome = welcome::compose(&facts, mesh.as_deref(), mode);
        self.write(&welcome.notification).await?;
        for item in &welcome.previewed {
            self.heard.insert(message::identity(item));
            self.parts.marks.pushed(&item.id).await;
        }
        Ok(())
    }

    /// Rows unread in the inbox, as far as one question shows; `None` when the daemon does not answer.
    async fn unread_count(&self) -> Option<usize> {
        let client = &self.standing.as_ref()?.client;
        let page =
            unread::page(&client.clone().with_timeout(welcome::QUESTION_TIMEOUT), self.mesh())
                .await;
        page.ok().map(|page| page.items.len())
    }

    fn mode(&self) -> MessageMode {
        let session = self.standing.as_ref().and_then(|standing| standing.session.as_ref());
        let is_deaf = listener::is_deaf(self.parts.served_rx.borrow().as_ref());
        match self.parts.channel {
            // What is not heard is not pushed, and so not marked: it waits for hooks and questions.
            _ if is_deaf => MessageMode::Off,
            Channel::Off => MessageMode::Off,
            Channel::Push => session.map(|session| session.message_mode).unwrap_or_default(),
        }
    }

    /// The session's mesh, else the one pinned by the caller.
    fn mesh(&self) -> Option<&str> {
        let session = self.standing.as_ref().and_then(|standing| standing.session.as_ref());
        session.map(|session| session.mesh.as_str()).or(self.parts.mesh.as_deref())
    }

    fn own_key(&self) -> Option<String> {
        let session = self.standing.as_ref()?.session.as_ref()?;
        session.session_pubkey.map(claudemesh_protocol::PublicKey::to_hex)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let welcome = match self.welcome {
            Welcome::Due { at, .. } if self.standing.is_some() => Some(at),
            Welcome::Due { latest, .. } => Some(latest),
            Welcome::Early | Welcome::Done => None,
        };
        let others = [
            self.presence.closes_at(),
            self.budget.report_at(),
            self.inbox_line.due_at(),
            self.parts.watcher.due_at(),
        ];
        others.into_iter().chain([welcome]).flatten().min()
    }

    async fn write(&self, notification: &Notification) -> Result<(), ClientGone> {
        self.write_value(&notification.to_json()).await
    }

    async fn write_value(&self, value: &Value) -> Result<(), ClientGone> {
        self.parts.output.write(value).await.map_err(|error| {
            tracing::info!(%error, "the client no longer reads");
            ClientGone
        })
    }
}

impl InboxLine {
    fn add(&mut self, sender: String) {
        self.heard += 1;
        self.senders.retain(|known| *known != sender);
        self.senders.push(sender);
        self.next_at.get_or_insert_with(Instant::now);
    }

    fn due_at(&self) -> Option<Instant> {
        self.next_at.filter(|_| !self.senders.is_empty())
    }

    /// The line for all that wait; `unread` counts the inbox when the daemon could be asked.
    fn take(&mut self, now: Instant, unread: Option<usize>) -> Notification {
        self.next_at = Some(now + CHANNEL_INBOX_LINE_EVERY);
        announcement::inbox_line(&std::mem::take(&mut self.senders), unread.unwrap_or(self.heard))
    }
}

async fn became_ready(client_rx: &mut watch::Receiver<server::Client>) -> bool {
    client_rx.wait_for(|client| *client == server::Client::Ready).await.is_ok()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
