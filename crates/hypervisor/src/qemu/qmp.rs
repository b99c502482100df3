//! Client of QEMU's machine protocol (QMP): requests by id, answers in any order, events to whoever listens.
//! One per VM. Must never block on a VMM that hangs: every call has a limit.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

/// Longest message that is read. `query-qmp-schema`, the longest in use, answers with about 200 KiB.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Longest time that a call waits. The slowest in use (a snapshot) runs as a job and is polled.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Events kept for a listener that lags; then it is told that it missed some.
const EVENTS_KEPT: usize = 256;

/// Why a call brought nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    /// No connection.
    #[error("the VMM's control socket does not answer: {0}")]
    Connect(String),
    /// The connection ended.
    #[error("the VMM closed its control socket while `{command}` was under way")]
    Closed {
        /// The call.
        command: String,
    },
    /// No answer in time.
    #[error("the VMM did not answer `{command}` within {seconds} s")]
    TimedOut {
        /// The call.
        command: String,
        /// How long it waited.
        seconds: u64,
    },
    /// QEMU refused.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// The call.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// What came is not QMP.
    #[error("not a QMP message: {0}")]
    Malformed(String),
}

/// A message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first one of a connection.
    Greeting,
    /// Answer to the call of this id.
    Return {
        /// The call's id.
        id: u64,
        /// What came back.
        value: Value,
    },
    /// Refusal of the call of this id (`None`: QEMU could not read the call).
    Error {
        /// The call's id.
        id: Option<u64>,
        /// QEMU's words.
        description: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened in QEMU.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `SHUTDOWN`, `DEVICE_DELETED`, …
    pub name: String,
    /// Its data, `Null` where it has none.
    pub data: Value,
}

/// Reads one line of QMP. Total: any bytes give a message or an error.
pub fn decode(line: &[u8]) -> Result<Message, QmpError> {
    if line.len() > MESSAGE_BYTES_MAX {
        return Err(QmpError::Malformed(format!("{} bytes, more than {MESSAGE_BYTES_MAX}", line.len())));
    }
    let mut value: Value = serde_json::from_slice(line).map_err(|e| QmpError::Malformed(e.to_string()))?;
    let Some(object) = value.as_object_mut() else {
        return Err(QmpError::Malformed("expected an object".into()));
    };
    let id = object.get("id").and_then(Value::as_u64);
    if object.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(name) = object.get("event").and_then(Value::as_str).map(str::to_owned) {
        return Ok(Message::Event(Event { name, data: object.remove("data").unwrap_or(Value::Null) }));
    }
    if let Some(error) = object.get("error") {
        let description = error.get("desc").and_then(Value::as_str).unwrap_or("no description").to_owned();
        return Ok(Message::Error { id, description });
    }
    match (object.remove("return"), id) {
        (Some(value), Some(id)) => Ok(Message::Return { id, value }),
        (Some(_), None) => Err(QmpError::Malformed("an answer without an id".into())),
        (None, _) => Err(QmpError::Malformed("neither answer, error, event nor greeting".into())),
    }
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>>;

/// A connection to a VMM.
pub struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next_id: AtomicU64,
    events: broadcast::Sender<Event>,
    reader: JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects and negotiates. Fails at once where nobody listens: whoever starts a VMM waits for its socket.
    pub async fn connect(path: &Path) -> Result<Self, QmpError> {
        let connect = async {
            let stream = UnixStream::connect(path).await.map_err(|e| QmpError::Connect(e.to_string()))?;
            let (read, write) = stream.into_split();
            let mut lines = BufReader::new(read);
            match next_message(&mut lines).await? {
                Some(Message::Greeting) => {}
                other => return Err(QmpError::Malformed(format!("expected a greeting, found {other:?}"))),
            }
            let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
            let (events, _) = broadcast::channel(EVENTS_KEPT);
            let reader = tokio::spawn(read_messages(lines, waiting.clone(), events.clone()));
            let writer = tokio::sync::Mutex::new(write);
            Ok(Self { writer, waiting, next_id: AtomicU64::new(1), events, reader })
        };
        let limit = |_| QmpError::Connect(format!("no greeting within {} s", CALL_LIMIT.as_secs()));
        let qmp = tokio::time::timeout(CALL_LIMIT, connect).await.map_err(limit)??;
        qmp.call("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Whether the connection still stands.
    pub fn is_open(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Runs a command and waits for its answer.
    pub async fn call(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let closed = || QmpError::Closed { command: command.to_owned() };
        match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(closed()),
        };
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let answer = async {
            let mut line = message.to_string();
            line.push('\n');
            self.writer.lock().await.write_all(line.as_bytes()).await.map_err(|_| closed())?;
            receiver.await.map_err(|_| closed())
        };
        let outcome = tokio::time::timeout(CALL_LIMIT, answer).await;
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            waiting.remove(&id);
        }
        let refused = |description| QmpError::Refused { command: command.to_owned(), description };
        match outcome {
            Ok(answer) => answer?.map_err(refused),
            Err(_) => Err(QmpError::TimedOut { command: command.to_owned(), seconds: CALL_LIMIT.as_secs() }),
        }
    }
}

/// The next message, or `None` at the end of the stream.
async fn next_message(lines: &mut BufReader<OwnedReadHalf>) -> Result<Option<Message>, QmpError> {
    let mut line = Vec::new();
    loop {
        let available = lines.fill_buf().await.map_err(|e| QmpError::Connect(e.to_string()))?;
        if available.is_empty() {
            return Ok(None);
        }
        let end = available.iter().position(|b| *b == b'\n');
        let taken = end.map_or(available.len(), |at| at + 1);
        line.extend_from_slice(&available[..taken]);
        lines.consume(taken);
        if line.len() > MESSAGE_BYTES_MAX {
            return Err(QmpError::Malformed(format!("a line of more than {MESSAGE_BYTES_MAX} bytes")));
        }
        if end.is_some() {
            return decode(&line).map(Some);
        }
    }
}

async fn read_messages(
    mut lines: BufReader<OwnedReadHalf>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
) {
    loop {
        let answer = match next_message(&mut lines).await {
            Ok(Some(Message::Return { id, value })) => (id, Ok(value)),
            Ok(Some(Message::Error { id: Some(id), description })) => (id, Err(description)),
            Ok(Some(Message::Event(event))) => {
                // Nobody may be listening.
                let _ = events.send(event);
                continue;
            }
            Ok(Some(Message::Greeting | Message::Error { id: None, .. })) => continue,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "control socket given up");
                break;
            }
        };
        let sender = match waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.remove(&answer.0),
            None => None,
        };
        if let Some(sender) = sender {
            // The caller may have given up waiting.
            let _ = sender.send(answer.1);
        }
    }
    // Callers still waiting see their sender dropped: "closed".
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(decode(br#"{"QMP": {"version": {}}}"#).unwrap(), Message::Greeting);
        assert_eq!(
            decode(br#"{"return": {"a": 1}, "id": 7}"#).unwrap(),
            Message::Return { id: 7, value: json!({"a": 1}) }
        );
        assert_eq!(
            decode(br#"{"id": 7, "error": {"class": "GenericError", "desc": "no"}}"#).unwrap(),
            Message::Error { id: Some(7), description: "no".into() }
        );
        assert!(matches!(decode(br#"{"event": "STOP"}"#), Ok(Message::Event(_))));
        for bad in ["", "[]", "{}", "{\"return\": 1}", "nul", "{\"return\":1,\"id\":-1}", "\u{0}"] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad:?} was taken");
        }
    }

    #[tokio::test]
    async fn a_vmm_that_dies_fails_the_call_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut lines = BufReader::new(read).lines();
            let hello: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            write
                .write_all(format!("{{\"return\":{{}},\"id\":{}}}\n", hello["id"]).as_bytes())
                .await
                .unwrap();
            lines.next_line().await.unwrap();
        });
        let qmp = Qmp::connect(&path).await.unwrap();
        let error = qmp.call("query-status", Value::Null).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed { .. }), "{error}");
        vmm.await.unwrap();
        assert!(!qmp.is_open());
    }
}
