//! A watch stream as a test sees it.

use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::watch_client::WatchClient;
use netsy_api::etcdserverpb::watch_request::RequestUnion;
use netsy_api::mvccpb::Event;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

/// Far longer than an answer takes, on a busy machine too.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Requests on the way.
const REQUESTS_MAX: usize = 64;

/// One stream; dropping it ends it.
pub struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Answers,
}

/// A server may send nothing, not even headers, before the first request: the call is on its way until then.
enum Answers {
    Opening(JoinHandle<Result<tonic::Response<tonic::Streaming<pb::WatchResponse>>, Status>>),
    Open(Box<tonic::Streaming<pb::WatchResponse>>),
    Failed,
}

impl WatchStream {
    pub(crate) fn open(mut service: WatchClient<Channel>, metadata: MetadataMap) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        *request.metadata_mut() = metadata;
        let answers = Answers::Opening(tokio::spawn(async move { service.watch(request).await }));
        Self { requests, answers }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestUnion) {
        self.try_send(request).await.expect("the watch stream takes requests");
    }

    /// Sends a request; false: the stream has ended.
    pub async fn try_send(&self, request: RequestUnion) -> Option<()> {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.ok()
    }

    /// Waits, for as long as it takes, until the server ends the stream; gives the reason. Nothing may come before.
    pub async fn end(&mut self) -> Status {
        match self.try_next().await {
            Err(status) => status,
            Ok(answer) => panic!("the stream was to end with an error, this came: {answer:?}"),
        }
    }

    /// Asks for a watch and awaits that it is made; gives its answer.
    pub async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        let answer = self.next().await;
        assert!(answer.created, "the first answer to a create request says created: {answer:?}");
        answer
    }

    /// Asks for a watch that works; gives its id.
    pub async fn add(&mut self, request: pb::WatchCreateRequest) -> i64 {
        let answer = self.create(request).await;
        assert!(!answer.canceled, "the watch was refused: {answer:?}");
        answer.watch_id
    }

    /// Asks for the end of a watch.
    pub async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }

    /// Asks how far the stream has got.
    pub async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// The next answer, or panics.
    pub async fn next(&mut self) -> pb::WatchResponse {
        match tokio::time::timeout(ANSWER_WITHIN, self.try_next()).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(other) => panic!("the watch stream ended: {other:?}"),
            Err(_) => panic!("the watch stream was silent for {ANSWER_WITHIN:?}"),
        }
    }

    /// The next answer, the end of the stream, or its error.
    pub async fn try_next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        // Nothing is lost when the caller gives up waiting: the state changes only at an answer.
        if let Answers::Opening(call) = &mut self.answers {
            let answer = call.await.map_err(|error| Status::internal(error.to_string()))?;
            self.answers = Answers::Failed;
            self.answers = Answers::Open(Box::new(answer?.into_inner()));
        }
        match &mut self.answers {
            Answers::Open(answers) => answers.message().await,
            Answers::Opening(_) | Answers::Failed => Ok(None),
        }
    }

    /// The next answer if one comes within `limit`.
    pub async fn next_within(&mut self, limit: Duration) -> Option<pb::WatchResponse> {
        match tokio::time::timeout(limit, self.try_next()).await {
            Ok(Ok(Some(answer))) => Some(answer),
            Ok(other) => panic!("the watch stream ended: {other:?}"),
            Err(_) => None,
        }
    }

    /// Asserts that nothing comes for a while.
    pub async fn silent_for(&mut self, while_: Duration) {
        if let Some(answer) = self.next_within(while_).await {
            panic!("nothing was to come, this came: {answer:?}");
        }
    }

    /// The next `count` events, over as many answers as they take.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.next().await;
            assert!(!answer.created && !answer.canceled, "events were to come, this came: {answer:?}");
            events.extend(answer.events);
        }
        assert_eq!(events.len(), count, "more events came than were due");
        events
    }

    /// Asks until the server says how far it got; events that come meanwhile are given too.
    pub async fn progress(&mut self) -> (i64, Vec<Event>) {
        let mut events = Vec::new();
        let mut asked = 0;
        loop {
            self.ask_progress().await;
            asked += 1;
            assert!(asked < 200, "no answer to {asked} progress requests");
            while let Some(answer) = self.next_within(Duration::from_millis(100)).await {
                if answer.watch_id == -1 && answer.events.is_empty() {
                    return (answer.header.expect("a progress answer has a header").revision, events);
                }
                events.extend(answer.events);
            }
        }
    }
}

/// An event in short: `P key=value @revision` or `D key @revision`.
pub fn short(event: &Event) -> String {
    let Some(kv) = &event.kv else { return "no kv".to_owned() };
    let key = String::from_utf8_lossy(&kv.key);
    if event.r#type == 0 {
        format!("P {key}={} @{}", String::from_utf8_lossy(&kv.value), kv.mod_revision)
    } else {
        format!("D {key} @{}", kv.mod_revision)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        if let Answers::Opening(call) = &self.answers {
            call.abort();
        }
    }
}

/// Events in short.
pub fn all_short(events: &[Event]) -> Vec<String> {
    events.iter().map(short).collect()
}
