//! Questions and their answers on one stream, told apart by numbers.

use crate::error::{CallError, Lost, NotSent, Outcome, SendError, Unanswered};
use crate::handler::{ForwardReply, ForwardRequest, Handler, Remote};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::tasks::Tasks;
use futures::FutureExt;
use futures::future::{AbortHandle, Abortable};
use netsy_api::peer::{
    CallRequest, CallResponse, CallStatus, Cancel, Forward, Forwarded, call_request, call_response, forwarded,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// No call is given more time than this, whatever was asked for.
const CALL_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// gRPC's code of an internal error.
const CODE_INTERNAL: u32 = 13;

type Answer = Result<call_response::Kind, Lost>;

/// The asking end.
pub(crate) struct Caller {
    outbox: Arc<Outbox>,
    message_bytes_max: usize,
    table: Mutex<Table>,
}

struct Table {
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    lost: Option<Lost>,
}

impl Caller {
    pub(crate) fn new(outbox: Arc<Outbox>, message_bytes_max: usize) -> Self {
        Self { outbox, message_bytes_max, table: Mutex::new(Table { next_id: 1, waiting: HashMap::new(), lost: None }) }
    }

    /// Sends a client's request on, once, and waits for what becomes of it.
    pub(crate) async fn forward(&self, request: ForwardRequest) -> Result<Outcome, CallError> {
        let deadline = request.deadline;
        let mut forward = Forward {
            path: request.path,
            body: request.body,
            timeout_us: 0,
            client: request.client,
            require_leader: request.require_leader,
            token: request.token,
        };
        let bytes = forward.body.len();
        let (mut call, answer) = Call::register(self)?;
        let offset = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotSent::Deadline.into());
            }
            forward.timeout_us = left.as_micros().min(u128::from(u64::MAX)) as u64;
            let message = CallRequest { id: call.id, kind: Some(call_request::Kind::Forward(forward)) };
            match self.outbox.push(&message) {
                Ok(offset) => break offset,
                Err(SendError::TooLarge) => {
                    return Err(NotSent::TooLarge { bytes, max: self.message_bytes_max }.into());
                }
                Err(SendError::Closed) => return Err(self.not_sent().into()),
                Err(SendError::Full) => {
                    // Not late enough to tell: the loop does.
                    let _ = timeout_at(deadline, self.outbox.room()).await;
                }
            }
            let Some(call_request::Kind::Forward(again)) = message.kind else { return Err(self.not_sent().into()) };
            forward = again;
        };
        call.sent = true;
        match timeout_at(deadline, answer).await {
            Err(_) => Err(Unanswered::Deadline.into()),
            // The table is gone, which is the same as its end.
            Ok(Err(_)) => Err(Unanswered::Lost(Lost::Closed("the connection was dropped".into())).into()),
            Ok(Ok(Err(lost))) => {
                call.sent = false;
                if self.outbox.is_taken(offset) {
                    Err(Unanswered::Lost(lost).into())
                } else {
                    Err(NotSent::Lost(lost).into())
                }
            }
            Ok(Ok(Ok(call_response::Kind::Forwarded(forwarded)))) => {
                call.sent = false;
                match forwarded.outcome {
                    Some(forwarded::Outcome::Answer(bytes)) => Ok(Outcome::Answer(bytes)),
                    Some(forwarded::Outcome::Status(status)) => Ok(Outcome::Status(status)),
                    Some(forwarded::Outcome::NotRun(why)) => Err(NotSent::NotRun(why).into()),
                    None => Err(Unanswered::Malformed.into()),
                }
            }
        }
    }

    fn not_sent(&self) -> NotSent {
        self.table.lock().lost.clone().map_or(NotSent::NotConnected, NotSent::Lost)
    }

    /// Hands out the answers as they come, until the stream ends.
    pub(crate) async fn receive(&self, inbox: &mut Inbox) -> Lost {
        loop {
            match inbox.next::<CallResponse>().await {
                Ok(Some(CallResponse { id, kind: Some(kind) })) => {
                    let waiting = self.table.lock().waiting.remove(&id);
                    if let Some(waiting) = waiting {
                        // Refused by a call that was just given up.
                        let _ = waiting.send(Ok(kind));
                    }
                }
                Ok(Some(CallResponse { kind: None, .. })) => {
                    return Lost::Malformed("an answer of no known kind".to_owned());
                }
                Ok(None) => return Lost::Broken("the other end ended its answers".to_owned()),
                Err(lost) => return lost,
            }
        }
    }

    /// The connection is gone: nobody will be answered any more.
    pub(crate) fn close(&self, lost: &Lost) {
        // Closed first: what was not taken by now never will be.
        self.outbox.close();
        let waiting = {
            let mut table = self.table.lock();
            table.lost.get_or_insert_with(|| lost.clone());
            std::mem::take(&mut table.waiting)
        };
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(lost.clone()));
        }
    }
}

/// One call under way. Dropped before its answer came, it tells the other end.
struct Call<'a> {
    caller: &'a Caller,
    id: u64,
    sent: bool,
}

impl<'a> Call<'a> {
    fn register(caller: &'a Caller) -> Result<(Self, oneshot::Receiver<Answer>), NotSent> {
        let (send, receive) = oneshot::channel();
        let mut table = caller.table.lock();
        if let Some(lost) = &table.lost {
            return Err(NotSent::Lost(lost.clone()));
        }
        let id = table.next_id;
        table.next_id += 1;
        table.waiting.insert(id, send);
        Ok((Self { caller, id, sent: false }, receive))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let was_waiting = self.caller.table.lock().waiting.remove(&self.id).is_some();
        if self.sent && was_waiting {
            // Without room for it the other end goes on until the call's deadline, which it knows.
            let _ = self
                .caller
                .outbox
                .push(&CallRequest { id: self.id, kind: Some(call_request::Kind::Cancel(Cancel {})) });
        }
    }
}

/// The answering end: what is under way for one other node.
pub(crate) struct Answering {
    pub(crate) remote: Arc<Remote>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) calls_max: usize,
    running: Mutex<HashMap<u64, AbortHandle>>,
    fewer: Notify,
}

impl Answering {
    pub(crate) fn new(
        remote: Arc<Remote>,
        handler: Arc<dyn Handler>,
        outbox: Arc<Outbox>,
        tasks: Arc<Tasks>,
        calls_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            remote,
            handler,
            outbox,
            tasks,
            calls_max,
            running: Mutex::new(HashMap::new()),
            fewer: Notify::new(),
        })
    }

    /// Takes questions until the stream ends.
    pub(crate) async fn serve(self: Arc<Self>, mut inbox: Inbox) -> Lost {
        loop {
            // Further questions wait in the connection: its window holds the other end up.
            while self.running.lock().len() >= self.calls_max {
                self.fewer.notified().await;
            }
            let request = match inbox.next::<CallRequest>().await {
                Ok(Some(request)) => request,
                Ok(None) => return Lost::Broken("the other end ended its calls".to_owned()),
                Err(lost) => return lost,
            };
            match request.kind {
                Some(call_request::Kind::Forward(forward)) => {
                    if let Err(lost) = self.begin(request.id, forward) {
                        return lost;
                    }
                }
                Some(call_request::Kind::Cancel(_)) => {
                    // Answered already, if it is not there.
                    if let Some(running) = self.running.lock().remove(&request.id) {
                        running.abort();
                    }
                    self.fewer.notify_one();
                }
                None => return Lost::Malformed("a call of no known kind".to_owned()),
            }
        }
    }

    fn begin(self: &Arc<Self>, id: u64, forward: Forward) -> Result<(), Lost> {
        let time = Duration::from_micros(forward.timeout_us).min(CALL_TIME_MAX);
        let request = ForwardRequest {
            path: forward.path,
            body: forward.body,
            deadline: Instant::now() + time,
            client: forward.client,
            require_leader: forward.require_leader,
            token: forward.token,
        };
        let (abort, registration) = AbortHandle::new_pair();
        if self.running.lock().insert(id, abort).is_some() {
            return Err(Lost::Malformed(format!("call {id} was begun twice")));
        }
        let this = self.clone();
        let work = AssertUnwindSafe(async move { this.handler.forward(&this.remote, request).await }).catch_unwind();
        let work = Abortable::new(work, registration);
        let this = self.clone();
        self.tasks.spawn(Box::pin(async move {
            let reply = match work.await {
                // Given up: nobody waits for the answer.
                Err(_) => return,
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => {
                    tracing::error!(from = %this.remote.node_id, "a handler of a forwarded request panicked: please report this");
                    ForwardReply::Status(CallStatus {
                        code: CODE_INTERNAL,
                        message: "netsy: internal error: the handler panicked".to_owned(),
                        ..CallStatus::default()
                    })
                }
            };
            let outcome = match reply {
                ForwardReply::Answer(bytes) => forwarded::Outcome::Answer(bytes),
                ForwardReply::Status(status) => forwarded::Outcome::Status(status),
                ForwardReply::NotRun(why) => forwarded::Outcome::NotRun(why),
            };
            this.answer(id, Forwarded { outcome: Some(outcome) }).await;
            this.running.lock().remove(&id);
            this.fewer.notify_one();
        }));
        Ok(())
    }

    async fn answer(&self, id: u64, forwarded: Forwarded) {
        let response = CallResponse { id, kind: Some(call_response::Kind::Forwarded(forwarded)) };
        match self.outbox.push_wait(&response).await {
            Ok(_) => {}
            // The connection is gone, and with it the one that asked.
            Err(SendError::Closed) => {}
            Err(error) => {
                let status = CallStatus {
                    code: CODE_INTERNAL,
                    message: format!("netsy: the answer cannot be passed on: {error}"),
                    ..CallStatus::default()
                };
                let outcome = Some(forwarded::Outcome::Status(status));
                let response = CallResponse { id, kind: Some(call_response::Kind::Forwarded(Forwarded { outcome })) };
                // Small: only refused if the connection is gone.
                let _ = self.outbox.push_wait(&response).await;
            }
        }
    }
}
