//! An object read as settings: every name known, none twice.

use std::borrow::Cow;

use super::{Json, Wrong};

/// The fields of an object. Made by [`Json::object`].
#[derive(Debug, Clone, Copy)]
pub struct Fields<'j, 't>(&'j [(Cow<'t, str>, Json<'t>)]);

impl<'j, 't> Fields<'j, 't> {
    pub(super) fn new(fields: &'j [(Cow<'t, str>, Json<'t>)], known: &[&str]) -> Result<Self, Wrong> {
        for (index, (name, _)) in fields.iter().enumerate() {
            if !known.contains(&&**name) {
                return Err(Wrong::new(format!("unknown setting `{name}`, not one of {}", known.join(" "))));
            }
            if fields[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Wrong::new(format!("setting `{name}` comes twice")));
            }
        }
        Ok(Self(fields))
    }

    /// A field that may be absent, read by `read` if it is there. `null` is there.
    ///
    /// # Errors
    ///
    /// When `read` refuses it.
    pub fn get<T>(&self, name: &str, read: impl FnOnce(&'j Json<'t>) -> Result<T, Wrong>) -> Result<Option<T>, Wrong> {
        let Some(value) = self.find(name) else { return Ok(None) };
        read(value).map(Some).map_err(|wrong| wrong.in_field(name))
    }

    /// A field that must be there, read by `read`.
    ///
    /// # Errors
    ///
    /// When it is absent, or `read` refuses it.
    pub fn require<T>(&self, name: &str, read: impl FnOnce(&'j Json<'t>) -> Result<T, Wrong>) -> Result<T, Wrong> {
        match self.get(name, read)? {
            Some(value) => Ok(value),
            None => Err(missing(name)),
        }
    }

    // The functions above are compiled anew for each setting that a policy has. What does not depend on its type is
    // kept out of them.
    #[inline(never)]
    fn find(&self, name: &str) -> Option<&'j Json<'t>> {
        self.0.iter().find(|(is, _)| is == name).map(|(_, value)| value)
    }
}

#[cold]
#[inline(never)]
fn missing(name: &str) -> Wrong {
    Wrong::new(format!("setting `{name}` is missing"))
}
