//! Functions of Rego that are answered here: the clock, from the request, and two of networks, which regorus has only
//! together with the standard library's threads and randomness.

use core::net::IpAddr;

use anyhow::{Result, bail};
use regorus::{Engine, Value};

/// Add them to an interpreter that judges one request.
///
/// # Errors
///
/// When regorus has one of them already: never, for an interpreter without extensions.
pub(crate) fn add(interpreter: &mut Engine, now_ms: u64) -> Result<()> {
    // In 128 bits no time of 64 overflows.
    let clock = Value::from(u128::from(now_ms) * 1_000_000);
    interpreter.add_extension("time.now_ns".into(), 0, Box::new(move |_: Vec<Value>| Ok(clock.clone())))?;
    interpreter.add_extension("net.cidr_is_valid".into(), 1, Box::new(|of: Vec<Value>| Ok(cidr_is_valid(&of))))?;
    interpreter.add_extension("net.cidr_contains".into(), 2, Box::new(|of: Vec<Value>| Ok(cidr_contains(&of))))
}

fn cidr_is_valid(of: &[Value]) -> Value {
    let [Value::String(text)] = of else { return Value::Bool(false) };
    Value::Bool(Block::read(text).is_ok())
}

/// Undefined where an argument is no network, as in OPA.
fn cidr_contains(of: &[Value]) -> Value {
    let [Value::String(outer), Value::String(inner)] = of else { return Value::Undefined };
    let inner = if inner.contains('/') { Block::read(inner) } else { Block::address(inner) };
    match (Block::read(outer), inner) {
        (Ok(outer), Ok(inner)) => Value::Bool(outer.contains(&inner)),
        _ => Value::Undefined,
    }
}

/// Addresses whose first bits are the same. The bits stand at the left end of the number.
struct Block {
    version_bits: u32,
    bits: u128,
    prefix: u32,
}

impl Block {
    fn read(text: &str) -> Result<Self> {
        let Some((address, prefix)) = text.split_once('/') else { bail!("'{text}' has no prefix") };
        let all = Self::address(address)?;
        let plain = !prefix.is_empty() && prefix.bytes().all(|digit| digit.is_ascii_digit());
        match prefix.parse() {
            Ok(prefix) if plain && prefix <= all.version_bits => Ok(Self { prefix, ..all }),
            _ => bail!("'{prefix}' is no length of a prefix"),
        }
    }

    fn address(text: &str) -> Result<Self> {
        let (version_bits, bits) = match text.parse()? {
            IpAddr::V4(address) => (32, u128::from(u32::from(address)) << 96),
            IpAddr::V6(address) => (128, u128::from(address)),
        };
        Ok(Self { version_bits, bits, prefix: version_bits })
    }

    fn contains(&self, inner: &Self) -> bool {
        let differ = (self.bits ^ inner.bits).leading_zeros();
        self.version_bits == inner.version_bits && self.prefix <= inner.prefix && differ >= self.prefix
    }
}
