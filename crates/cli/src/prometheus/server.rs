//! The way to a Prometheus, over HTTP or TLS: range queries, one after the other. Must never follow it elsewhere, read
//! without an end or wait without a limit, nor say a token to anybody but the server that was named.

use super::answer::{self, Answer, AnswerError, Span};
use super::tame;
use crate::client::{Connect, Stream, segment};
use crate::error::{CommandError, usage};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, LOCATION};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use proteus_model::unit::Millis;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Largest answer that is read: 10 000 moments of one series are 0.4 MB; the rest is for labels of some thousands.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest address and token.
const URL_BYTES_MAX: usize = 2048;

/// A Prometheus.
pub struct Prometheus {
    authority: String,
    /// Of its path, as behind a proxy; empty, or begins with `/`.
    prefix: String,
    tls: Option<Arc<dyn Connect>>,
    token: Option<HeaderValue>,
    limit: Millis,
}

/// Status, where it would send us, and the body.
type Response = (StatusCode, Option<String>, Bytes);

fn failed(what: String, because: String, hint: &str) -> CommandError {
    CommandError::Failed { what, because: vec![because], hint: hint.to_owned() }
}

impl Prometheus {
    /// The one at this address. No request to it takes longer than `limit`. `tls` makes connections for `https`.
    pub fn new(
        url: &str,
        token: Option<&str>,
        limit: Millis,
        tls: impl FnOnce() -> Result<Arc<dyn Connect>, CommandError>,
    ) -> Result<Self, CommandError> {
        let bad = |hint: &str| {
            let shown = tame(url.rsplit('@').next().unwrap_or_default(), 120);
            usage(format!("{shown:?} is not the address of a Prometheus"), hint)
        };
        let form = "expected http://HOST:9090 or https://HOST:9090, with its path where it is behind one";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad(form))?;
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(bad(
                "a password in an address is seen by all of this host: use `--prometheus-token-file`",
            ));
        }
        let plain = |c: char| c.is_ascii_graphic() && !"?#\\\"<>".contains(c);
        if authority.is_empty() || url.len() > URL_BYTES_MAX || !rest.chars().all(plain) {
            return Err(bad(form));
        }
        let (port, tls) = match scheme {
            "http" => (80, None),
            "https" => (443, Some(tls()?)),
            _ => return Err(bad(form)),
        };
        let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let mut token = token.map_err(|_| {
            usage(
                "the token has letters that a token cannot have".to_owned(),
                "is it the file that you mean?",
            )
        })?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self { authority, prefix: prefix.trim_end_matches('/').to_owned(), tls, token, limit })
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.prefix)
    }

    /// What a question brings over a stretch of time.
    pub async fn range(&self, expression: &str, span: Span) -> Result<Answer, CommandError> {
        let Span { from_s, until_s, step_s } = span;
        let path = format!(
            "{}/api/v1/query_range?query={}&start={from_s}&end={until_s}&step={step_s}&timeout={}ms",
            self.prefix,
            segment(expression).replace('=', "%3D").replace('^', "%5E"),
            self.limit.0
        );
        let limit = Duration::from_millis(self.limit.0);
        let late = |_| CommandError::TimedOut {
            what: format!("Prometheus at {} did not answer within {}", self.name(), self.limit),
            hint: "give it longer with `--timeout`, or ask for less with `--since`".to_owned(),
        };
        let (status, location, body) =
            tokio::time::timeout(limit, self.fetch(&path)).await.map_err(late)??;
        self.judge(status, location.as_deref(), &body, span).map_err(|error| told(error, expression))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match &self.tls {
            Some(tls) => tls.connect(&self.authority).await,
            None => {
                let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
                Ok(Box::new(stream))
            }
        }
    }

    async fn fetch(&self, path: &str) -> Result<Response, CommandError> {
        let unreachable = |why: String| {
            let hint = if why.contains("certificate") {
                "`--prometheus-ca FILE` names the authority that signed its certificate"
            } else {
                "is it running there, and may this host reach it?"
            };
            failed(format!("Prometheus is not reachable at {}", self.name()), tame(&why, 300), hint)
        };
        let lost = |error: hyper::Error| {
            let hint = "is it a Prometheus, and does it serve http or https there as the address says?";
            failed(format!("Prometheus at {} did not answer", self.name()), error.to_string(), hint)
        };
        let stream = self.connect().await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = Driver(tokio::spawn(connection));
        let mut request = Request::get(path).header(HOST, &self.authority).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request =
            request.map_err(|error| usage(error.to_string(), "is the address of the server right?"))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let location = response.headers().get(LOCATION);
        let location = location.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        drop(driver);
        let body = body.map_err(|error| {
            let what = format!("the answer of Prometheus at {} could not be read", self.name());
            if error.is::<LengthLimitError>() {
                let because = format!("it is larger than {} MiB", ANSWER_BYTES_MAX >> 20);
                failed(what, because, "does it match many series? narrow it with `--match`")
            } else {
                failed(
                    what,
                    format!("it is cut short: {error}"),
                    "try again; a proxy on the way may have a limit",
                )
            }
        })?;
        Ok((status, location, body.to_bytes()))
    }

    fn judge(
        &self,
        status: StatusCode,
        location: Option<&str>,
        body: &[u8],
        span: Span,
    ) -> Result<Answer, CommandError> {
        let name = self.name();
        if status.is_redirection() {
            let to = location.map_or("elsewhere".to_owned(), |to| format!("to {}", tame(to, 200)));
            let because = format!("status {status}, {to}");
            let hint = "redirects are not followed: name the server itself with `--prometheus`";
            return Err(failed(format!("Prometheus at {name} sends us elsewhere"), because, hint));
        }
        let error = match answer::parse(body, span) {
            Ok(answer) if status.is_success() => return Ok(answer),
            Ok(_) => AnswerError::Strange("it says success".to_owned()),
            Err(error) => error,
        };
        let because = if status.is_success() || matches!(error, AnswerError::Said { .. }) {
            error.to_string()
        } else {
            format!("status {status}, and {error}")
        };
        let hint = match (status, &error) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                "it wants to know who asks: `--prometheus-token-file FILE`"
            }
            (_, AnswerError::Said { kind, .. }) if kind == "timeout" => {
                "give it longer with `--timeout`, or ask for less with `--since`"
            }
            (_, AnswerError::Said { .. }) => {
                "those are the server's own words; check `--match` and `--query`"
            }
            (_, AnswerError::Many { .. }) => {
                "one of them is this VM's: name it with `--match 'LABEL=\"VALUE\"'`, or add them up in `--query`"
            }
            (_, AnswerError::Cut(_)) => "try again; a proxy on the way may have a limit",
            _ => "is it a Prometheus? behind a proxy its address has a path, as in https://HOST/prometheus",
        };
        Err(failed(format!("Prometheus at {name} gave no values"), because, hint))
    }
}

/// Ends with whoever waits for it, also where that is given up.
struct Driver(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// With the question that brought it.
fn told(error: CommandError, expression: &str) -> CommandError {
    match error {
        CommandError::Failed { what, mut because, hint } => {
            because.push(format!("it was asked for {}", tame(expression, 400)));
            CommandError::Failed { what, because, hint }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
