//! One line in, at most one line out: JSON-RPC 2.0's single requests, notifications and batches.
//!
//! A request is parsed and its handler polled once in the order of the lines, so that cells reach their session in
//! that order; whatever is not answered by then goes on in a task of its own.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{LazyLock, Mutex},
};

use futures_util::FutureExt as _;
use jsonrpsee::{
    BatchResponseBuilder, ConnectionId, Extensions, MethodCallback, MethodResponse,
    types::{ErrorCode, ErrorObjectOwned, Id, Notification, Params, Request},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Server, connection::Connection};
use crate::error::Error;

/// Requests in one batch.
const MAX_BATCH: usize = 128;

/// A request's answer on its way; `None` when nothing must be sent.
pub(super) type Answer = Pin<Box<dyn Future<Output = Option<Box<RawValue>>> + Send>>;

/// What a handler can find in its extensions beside the connection.
#[derive(Clone, Debug)]
pub(super) struct Cancelled(pub(super) CancellationToken);

/// Requests in flight, by the JSON of their ids.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashMap<String, CancellationToken>>);

#[derive(Deserialize)]
struct CancelParams<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
}

/// jsonrpsee has no type for negative and fractional ids, which JSON-RPC allows: they go through it as texts that begin
/// with this, and come out as the numbers that they were. Nobody outside can know it.
static NUMBER: LazyLock<String> = LazyLock::new(|| format!("number-{}:", crate::random_id()));

/// Takes one line of the client.
pub(super) fn line(server: &Server, connection: &Connection, line: &[u8]) -> Answer {
    if line.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return batch(server, connection, line);
    }
    let answer = single(server, connection, line);
    Box::pin(async move { answer.await.map(|answer| with_numbers(answer.into_json(), false)) })
}

/// This id as a text that jsonrpsee can carry; `None` for what it can carry as it is.
fn as_text(id: &RawValue) -> Option<String> {
    let number = serde_json::from_str::<serde_json::Number>(id.get()).ok()?;
    (!number.is_u64()).then(|| format!("\"{}{}\"", *NUMBER, id.get()))
}

/// A request with its id as such a text; `None` when that is not needed.
fn with_text_id(request: &[u8]) -> Option<String> {
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(request).ok()?;
    let id = RawValue::from_string(as_text(fields.get("id")?)?).ok()?;
    fields.insert("id".to_owned(), &id);
    serde_json::to_string(&fields).ok()
}

/// An answer with the numbers that its ids were. A single answer has its id in front; only batches are searched.
fn with_numbers(answer: Box<RawValue>, batch: bool) -> Box<RawValue> {
    let (text, mark) = (answer.get(), format!("\"id\":\"{}", *NUMBER));
    let first = text.find("\"id\":").is_some_and(|at| text[at..].starts_with(&mark));
    if !(first || batch && text.contains(&mark)) {
        return answer;
    }
    let mut parts = text.split(&mark);
    let mut restored = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        restored.push_str("\"id\":");
        restored.push_str(&part.replacen('"', "", 1));
    }
    RawValue::from_string(restored).unwrap_or(answer)
}

/// The answer to a line over the limit, whose id nobody read.
pub(super) fn too_long(max: u64) -> Box<RawValue> {
    let message = format!("the line is longer than {max} bytes; it was skipped");
    MethodResponse::error(Id::Null, ErrorObjectOwned::owned(-32007, message, None::<()>)).into_json()
}

/// The answer when too much is in flight: the request was read and not started.
pub(super) fn busy(line: &[u8]) -> Box<RawValue> {
    let id = serde_json::from_slice::<Request<'_>>(line).map_or(Id::Null, |request| request.id);
    let data = serde_json::json!({"kind": "busy", "outcome": "not_started", "retryable": true});
    let error = ErrorObjectOwned::owned(
        -32009,
        "too many requests in flight on this connection; send it again when others are answered",
        Some(data),
    );
    MethodResponse::error(id, error).into_json()
}

fn batch(server: &Server, connection: &Connection, line: &[u8]) -> Answer {
    let error = |code: ErrorCode| -> Answer {
        let answer = MethodResponse::error(Id::Null, code).into_json();
        Box::pin(std::future::ready(Some(answer)))
    };
    let Ok(entries) = serde_json::from_slice::<Vec<&RawValue>>(line) else {
        return error(ErrorCode::ParseError);
    };
    if entries.is_empty() || entries.len() > MAX_BATCH {
        return error(ErrorCode::InvalidRequest);
    }
    let mut answers: Vec<_> = entries.iter().map(|entry| single(server, connection, entry.get().as_bytes())).collect();
    Box::pin(async move {
        // All of them are under way before the first is waited for, in the order of the batch.
        let mut done = Vec::with_capacity(answers.len());
        for answer in &mut answers {
            done.push(futures_util::poll!(answer.as_mut()));
        }
        // Together: one that streams must not wait for its reader behind another.
        let done = answers.into_iter().zip(done).map(|(answer, done)| async move {
            match done {
                std::task::Poll::Ready(response) => response,
                std::task::Poll::Pending => answer.await,
            }
        });
        let mut builder = BatchResponseBuilder::new_with_limit(usize::MAX);
        for response in futures_util::future::join_all(done).await.into_iter().flatten() {
            builder.append(response).ok()?;
        }
        (!builder.is_empty()).then(|| with_numbers(MethodResponse::from_batch(builder.finish()).into_json(), true))
    })
}

type Single = Pin<Box<dyn Future<Output = Option<MethodResponse>> + Send>>;

fn single(server: &Server, connection: &Connection, text: &[u8]) -> Single {
    // serde also reads a struct from an array, so the shape is looked at first.
    let object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if object {
        if let Ok(request) = serde_json::from_slice::<Request<'_>>(text) {
            if structured(request.params.as_deref()) {
                return call(server, connection, request);
            }
        } else if let Some(request) = with_text_id(text) {
            return single(server, connection, request.as_bytes());
        } else if let Ok(notification) = serde_json::from_slice::<Notification<'_, Option<&RawValue>>>(text)
            && !has_id(text)
            && structured(notification.params)
        {
            return notify(server, connection, &notification);
        }
    }
    let (id, code) = invalid(text);
    let response = MethodResponse::error(id, code);
    Box::pin(std::future::ready(Some(response)))
}

/// Absent, an object or an array.
fn structured(params: Option<&RawValue>) -> bool {
    params.is_none_or(|params| params.get().starts_with(['{', '[']))
}

/// Whether it could be a request: with an `id`, or with two of them, it must be answered.
#[expect(clippy::zero_sized_map_values, reason = "a set cannot be read from an object")]
fn has_id(text: &[u8]) -> bool {
    let fields = serde_json::from_slice::<HashMap<String, serde::de::IgnoredAny>>(text);
    fields.is_ok_and(|fields| fields.contains_key("id"))
}

/// What to say about a text that is no request, and to whom.
fn invalid(text: &[u8]) -> (Id<'static>, ErrorCode) {
    match serde_json::from_slice::<serde_json::Value>(text) {
        Ok(value) => {
            let id = value.get("id").and_then(|id| Id::deserialize(id).ok()).map(Id::into_owned);
            (id.unwrap_or(Id::Null), ErrorCode::InvalidRequest)
        }
        Err(_) => (Id::Null, ErrorCode::ParseError),
    }
}

fn call(server: &Server, connection: &Connection, request: Request<'_>) -> Single {
    let id = request.id.into_owned();
    let key = serde_json::to_string(&id).unwrap_or_default();
    let params = Params::new(request.params.as_ref().map(|params| params.get())).into_owned();
    let token = connection.token().child_token();
    let Some(handler) = handler(server, connection, &request.method, id.clone(), params, token.clone()) else {
        let response = MethodResponse::error(id, ErrorCode::MethodNotFound);
        return Box::pin(std::future::ready(Some(response)));
    };
    let connection = connection.clone();
    connection.in_flight().0.lock().expect("no holder panics").insert(key.clone(), token);
    Box::pin(async move {
        let response = AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a request's handler panicked");
            let data = serde_json::json!({"kind": "internal", "outcome": "unknown", "retryable": false});
            MethodResponse::error(id, ErrorObjectOwned::owned(-32603, "the request's handler panicked", Some(data)))
        });
        connection.in_flight().0.lock().expect("no holder panics").remove(&key);
        Some(response)
    })
}

fn notify(server: &Server, connection: &Connection, notification: &Notification<'_, Option<&RawValue>>) -> Single {
    let none: Single = Box::pin(std::future::ready(None));
    if notification.method == "$/cancelRequest" {
        let params = notification.params.and_then(|params| serde_json::from_str::<CancelParams<'_>>(params.get()).ok());
        let key = params.and_then(|CancelParams { id }| {
            // In the form that `call` gives to keys.
            as_text(id).or_else(|| serde_json::to_string(&serde_json::from_str::<Id<'_>>(id.get()).ok()?).ok())
        });
        if let Some(key) = key
            && let Some(token) = connection.in_flight().0.lock().expect("no holder panics").get(&key)
        {
            token.cancel();
        }
        return none;
    }
    let params = Params::new(notification.params.map(RawValue::get)).into_owned();
    let token = connection.token().child_token();
    match handler(server, connection, &notification.method, Id::Null, params, token) {
        Some(handler) => Box::pin(async move {
            let _ = AssertUnwindSafe(handler).catch_unwind().await;
            None
        }),
        None => none,
    }
}

fn handler(
    server: &Server,
    connection: &Connection,
    method: &str,
    id: Id<'static>,
    params: Params<'static>,
    token: CancellationToken,
) -> Option<Pin<Box<dyn Future<Output = MethodResponse> + Send>>> {
    let MethodCallback::Async(callback) = server.methods.method(method)? else {
        return None;
    };
    let mut extensions = Extensions::new();
    extensions.insert(server.clone());
    extensions.insert(connection.clone());
    extensions.insert(Cancelled(token));
    Some(callback(id, params, ConnectionId(0), usize::MAX, extensions))
}

/// Parses a method's parameters; absent ones are an empty object.
pub(super) fn parse<T: serde::de::DeserializeOwned>(params: &Params<'_>) -> Result<T, Error> {
    serde_json::from_str(params.as_str().unwrap_or("{}")).map_err(|error| Error::Params(error.to_string()))
}
