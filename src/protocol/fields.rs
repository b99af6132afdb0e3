//! The fields of a line as they stand there, read in one pass and borrowed from the line. Which of them
//! a command needs, and what they may hold, is for others to say.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{MAX_WHO_BYTES, Who};

/// The fields of a line, each as it stood there; of two with one name the later counts.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) command: Value<'a>,
    pub(super) name: Value<'a>,
    pub(super) timeout: Value<'a>,
    pub(super) queue_max: Value<'a>,
    pub(super) limit: Value<'a>,
    pub(super) ttl: Value<'a>,
    pub(super) who: WhoValue,
    pub(super) session: Value<'a>,
    pub(super) seq: Value<'a>,
    pub(super) token: Value<'a>,
    pub(super) reason: Value<'a>,
}

/// What a field held. Containers are read over: none of the plain fields may be one.
#[derive(Default)]
pub(super) enum Value<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(u64),
    Number(f64),
    Other,
}

/// The description of a session, or the name of the part that is wrong.
#[derive(Default)]
pub(super) enum WhoValue {
    #[default]
    Absent,
    Is(Who),
    Wrong(&'static str, &'static str),
}

/// The names of the fields that count.
enum Key {
    Command,
    Name,
    Timeout,
    QueueMax,
    Limit,
    Ttl,
    Who,
    Session,
    Seq,
    Token,
    Reason,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "command" => Key::Command,
                    "name" => Key::Name,
                    "timeout" => Key::Timeout,
                    "queue_max" => Key::QueueMax,
                    "limit" => Key::Limit,
                    "ttl" => Key::Ttl,
                    "who" => Key::Who,
                    "session" => Key::Session,
                    "seq" => Key::Seq,
                    "token" => Key::Token,
                    "reason" => Key::Reason,
                    _ => Key::Unknown,
                })
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Command => fields.command = map.next_value()?,
                        Key::Name => fields.name = map.next_value()?,
                        Key::Timeout => fields.timeout = map.next_value()?,
                        Key::QueueMax => fields.queue_max = map.next_value()?,
                        Key::Limit => fields.limit = map.next_value()?,
                        Key::Ttl => fields.ttl = map.next_value()?,
                        Key::Who => fields.who = map.next_value()?,
                        Key::Session => fields.session = map.next_value()?,
                        Key::Seq => fields.seq = map.next_value()?,
                        Key::Token => fields.token = map.next_value()?,
                        Key::Reason => fields.reason = map.next_value()?,
                        Key::Unknown => drop(map.next_value::<Value<'_>>()?),
                    }
                }
                Ok(fields)
            }
        }
        from.deserialize_map(FieldsVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Value::Integer(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Value::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Absent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<Value<'_>>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<Value<'_>, Value<'_>>()?.is_some() {}
                Ok(Value::Other)
            }
        }
        from.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for WhoValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WhoVisitor;
        impl<'de> Visitor<'de> for WhoVisitor {
            type Value = WhoValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or null")
            }

            fn visit_unit<E>(self) -> Result<WhoValue, E> {
                Ok(WhoValue::Absent)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WhoValue, A::Error> {
                let mut who = Who::default();
                let mut wrong = None;
                while let Some((key, value)) = map.next_entry::<Cow<'_, str>, Value<'_>>()? {
                    wrong = wrong.or(fill_who(&mut who, &key, value).err());
                }
                Ok(match wrong {
                    None => WhoValue::Is(who),
                    Some((field, allowed)) => WhoValue::Wrong(field, allowed),
                })
            }

            fn visit_bool<E>(self, _: bool) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_u64<E>(self, _: u64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_i64<E>(self, _: i64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_f64<E>(self, _: f64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_str<E>(self, _: &str) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WhoValue, A::Error> {
                while seq.next_element::<Value<'_>>()?.is_some() {}
                Ok(NO_OBJECT)
            }
        }
        const NO_OBJECT: WhoValue = WhoValue::Wrong("who", "an object or null");
        from.deserialize_any(WhoVisitor)
    }
}

/// Sets one field of a description, or says which one is wrong and what is allowed there.
fn fill_who(who: &mut Who, key: &str, value: Value<'_>) -> Result<(), (&'static str, &'static str)> {
    let text = |name, value| match value {
        Value::Absent => Ok(None),
        Value::Text(text) => Ok(Some(cut(&text))),
        Value::Integer(_) | Value::Number(_) | Value::Other => Err((name, "a string or null")),
    };
    match key {
        "host" => who.host = text("who.host", value)?,
        "user" => who.user = text("who.user", value)?,
        "run" => who.run = text("who.run", value)?,
        "pid" => who.pid = pid(&value)?,
        _ => {}
    }
    Ok(())
}

fn pid(value: &Value<'_>) -> Result<Option<u32>, (&'static str, &'static str)> {
    const WRONG: (&str, &str) = ("who.pid", "an integer of 0 to 4294967295, or null");
    match value {
        Value::Absent => Ok(None),
        Value::Integer(pid) => u32::try_from(*pid).map(Some).map_err(|_| WRONG),
        Value::Number(_) | Value::Text(_) | Value::Other => Err(WRONG),
    }
}

/// The longest start of `text` that is within the bound and ends with a whole character.
pub(super) fn cut(text: &str) -> String {
    let end = (0..=text.len().min(MAX_WHO_BYTES)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[..end].to_owned()
}
