//! A line as the server reads it: one pass, borrowing from the line, no tree of values in between.
//! Every refusal names the field and what is allowed. Knows nothing of what a connection may ask.

use std::borrow::Cow;
use std::time::Duration;

use crate::lock::{Limit, SessionId, Token};

use super::fields::{Fields, Value, WhoValue, cut};
use super::refusal::{ErrorCode, Refusal};
use super::{LockRequest, MAX_LIMIT, MAX_NAME_BYTES, Request, Who, quick};

/// Waiting longer than this is waiting for ever (31 years); it keeps every sum of times in range.
const MAX_TIMEOUT_SECONDS: f64 = 1e9;

impl<'a> Request<'a> {
    /// Reads one line, its end cut off.
    pub fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(line).map_err(|e| {
            Refusal::new(
                ErrorCode::BadJson,
                format!("the line is not valid UTF-8 from byte {} on", e.valid_up_to()),
            )
        })?;
        match quick::parse(text) {
            Some(request) => Ok(request),
            None => Self::parse_any(text),
        }
    }

    /// Reads any line, and says what is wrong with it.
    pub(crate) fn parse_any(text: &'a str) -> Result<Self, Refusal> {
        let fields: Fields<'a> = serde_json::from_str(text).map_err(|e| {
            Refusal::new(ErrorCode::BadJson, format!("the line must be one JSON object: {e}"))
        })?;
        fields.into_request()
    }
}

impl<'a> Fields<'a> {
    fn into_request(self) -> Result<Request<'a>, Refusal> {
        let Value::Text(command) = &self.command else {
            return Err(Refusal::new(ErrorCode::BadCommand, "command must be a string"));
        };
        Ok(match command.as_ref() {
            "lock" => Request::Lock(self.into_lock()?),
            "unlock" => Request::Unlock { name: name(self.name)? },
            "reset" => Request::Reset,
            "locks" => Request::Locks,
            "connections" => Request::Connections,
            "my_locks" => Request::MyLocks,
            "keep_alive" => Request::KeepAlive,
            "open" => Request::Open {
                session: session_if_given(&self.session)?,
                ttl: ttl(&self.ttl)?,
                who: who(self.who)?,
            },
            "resume" => Request::Resume { session: session(&self.session)? },
            "renew" => Request::Renew { seq: seq(&self.seq)? },
            "close" => Request::Close { session: session_if_given(&self.session)? },
            "status" => Request::Status {
                name: match self.name {
                    Value::Absent => None,
                    given => Some(name(given)?),
                },
            },
            "release" => Request::Release {
                token: token(&self.token)?,
                reason: reason(self.reason)?,
                name: name(self.name)?,
            },
            "verify" => Request::Verify { token: token(&self.token)?, name: name(self.name)? },
            "ping" => Request::Ping,
            other => return Err(unknown_command(other)),
        })
    }

    fn into_lock(self) -> Result<LockRequest<'a>, Refusal> {
        Ok(LockRequest {
            timeout: timeout(&self.timeout)?,
            queue_max: queue_max(&self.queue_max)?,
            limit: limit(&self.limit)?,
            name: name(self.name)?,
        })
    }
}

fn unknown_command(command: &str) -> Refusal {
    const SHOWN_CHARS: usize = 40;
    let shown: String = command.chars().take(SHOWN_CHARS).collect();
    Refusal::new(ErrorCode::BadCommand, format!("unknown command {shown:?}"))
}

fn name(value: Value<'_>) -> Result<Cow<'_, str>, Refusal> {
    match value {
        Value::Text(name) if name.len() > MAX_NAME_BYTES => {
            Err(Refusal::field("name", &format!("at most {MAX_NAME_BYTES} bytes long")))
        }
        Value::Text(name) if !name.is_empty() => Ok(name),
        Value::Text(_) | Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => {
            Err(Refusal::field("name", "a string that is not empty"))
        }
    }
}

fn timeout(value: &Value<'_>) -> Result<Option<Duration>, Refusal> {
    let seconds = match value {
        Value::Absent => return Ok(None),
        Value::Integer(seconds) => *seconds as f64,
        Value::Number(seconds) => *seconds,
        Value::Text(_) | Value::Other => {
            return Err(Refusal::field("timeout", "a number of seconds or null"));
        }
    };
    if seconds > MAX_TIMEOUT_SECONDS {
        return Ok(None);
    }
    Ok(Some(Duration::from_secs_f64(seconds.max(0.0))))
}

fn queue_max(value: &Value<'_>) -> Result<Option<u64>, Refusal> {
    match value {
        Value::Absent => Ok(None),
        Value::Integer(places) if *places >= 1 => Ok(Some(*places)),
        Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("queue_max", "an integer of at least 1, or null"))
        }
    }
}

fn limit(value: &Value<'_>) -> Result<Option<Limit>, Refusal> {
    let holders = match value {
        Value::Absent => return Ok(None),
        Value::Integer(holders) if *holders <= u64::from(MAX_LIMIT) => *holders as u32,
        Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::Other => 0,
    };
    match Limit::new(holders) {
        Some(limit) => Ok(Some(limit)),
        None => Err(Refusal::field("limit", &format!("an integer of 1 to {MAX_LIMIT}, or null"))),
    }
}

fn ttl(value: &Value<'_>) -> Result<Duration, Refusal> {
    let seconds = match value {
        Value::Integer(seconds) => *seconds as f64,
        Value::Number(seconds) => *seconds,
        Value::Absent | Value::Text(_) | Value::Other => -1.0,
    };
    if !(0.0..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
        return Err(Refusal::field("ttl", "a number of seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn who(value: WhoValue) -> Result<Who, Refusal> {
    match value {
        WhoValue::Absent => Ok(Who::default()),
        WhoValue::Is(who) => Ok(who),
        WhoValue::Wrong(field, allowed) => Err(Refusal::field(field, allowed)),
    }
}

fn session(value: &Value<'_>) -> Result<SessionId, Refusal> {
    let id = match value {
        Value::Text(text) => SessionId::from_hex(text),
        Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => None,
    };
    id.ok_or_else(|| Refusal::field("session", "32 hexadecimal digits"))
}

fn session_if_given(value: &Value<'_>) -> Result<Option<SessionId>, Refusal> {
    match value {
        Value::Absent => Ok(None),
        given => session(given).map(Some),
    }
}

fn seq(value: &Value<'_>) -> Result<u64, Refusal> {
    match value {
        Value::Integer(seq) => Ok(*seq),
        Value::Absent | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("seq", "an integer of at least 0"))
        }
    }
}

fn token(value: &Value<'_>) -> Result<Token, Refusal> {
    match value {
        Value::Integer(token) => Ok(Token(*token)),
        Value::Absent | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("token", "the integer that the grant came with"))
        }
    }
}

fn reason(value: Value<'_>) -> Result<Cow<'_, str>, Refusal> {
    match value {
        Value::Text(reason) if !reason.trim().is_empty() => Ok(cut(&reason).into()),
        Value::Text(_) | Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => {
            Err(Refusal::field("reason", "a string that is not empty"))
        }
    }
}
