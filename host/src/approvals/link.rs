//! Links by which whoever got an alert may decide without a key: a button in a chat, for one approval and one word.
//!
//! The token is an HMAC over the kernel, the approval, the word and the time at which it is void, under
//! `approvals.webhook_secret`. Holding it is the whole authority, so it is worth as much as the channel that the alert goes
//! to. It works once because an approval takes one word only, and never late because it is void with its approval. A link
//! is followed by POST: what fetches links to preview them decides nothing.

use crate::config::ApprovalsFile;
use crate::kernel::Kernel;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// What a token is for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The id of the kernel.
    pub kernel_id: &'a str,
    /// The approval.
    pub approval: &'a str,
    /// Approve, or reject.
    pub approve: bool,
    /// When the approval is void.
    pub expires_ms: u64,
}

impl Purpose<'_> {
    fn mac(&self, secret: &str) -> Option<Hmac<Sha256>> {
        let Self { kernel_id, approval, approve, expires_ms } = self;
        let said = json!(["gavel approval 1", kernel_id, approval, approve, expires_ms]).to_string();
        // A key of any length will do.
        Some(<Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).ok()?.chain_update(said))
    }

    /// The token that a link has.
    #[must_use]
    pub fn token(&self, secret: &str) -> Option<String> {
        Some(hex::encode(self.mac(secret)?.finalize().into_bytes()))
    }

    /// Whether a token is the one of this purpose, compared in constant time.
    #[must_use]
    pub fn is_of(&self, secret: &str, token: &str) -> bool {
        let Ok(token) = hex::decode(token) else { return false };
        self.mac(secret).is_some_and(|mac| mac.verify_slice(&token).is_ok())
    }
}

impl Kernel {
    /// Who decides by this link; `None` where no links are made, the token is not of it, or it is too late.
    #[must_use]
    pub fn follow_link(&self, approval: &str, approve: bool, expires_ms: u64, token: &str) -> Option<String> {
        let file = self.approvals.limits();
        let purpose = Purpose { kernel_id: self.id(), approval, approve, expires_ms };
        let valid = purpose.is_of(file.webhook_secret.as_deref()?, token) && self.now_ms() < expires_ms;
        valid.then(|| format!("webhook:{}", file.webhook_name))
    }
}

/// The words of a link's `decision`.
#[must_use]
pub fn decision(approve: bool) -> &'static str {
    if approve { "approve" } else { "reject" }
}

/// Where an approval is shown, and with a secret where it is decided.
#[must_use]
pub fn links(file: &ApprovalsFile, (kernel, kernel_id): (&str, &str), approval: &str, expires_ms: u64) -> Value {
    let base = file.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
    let shown = format!("{base}/kernels/{kernel}/approvals/{approval}");
    let mut links = json!({"show": shown});
    for approve in [true, false] {
        let purpose = Purpose { kernel_id, approval, approve, expires_ms };
        if let Some(token) = file.webhook_secret.as_deref().and_then(|secret| purpose.token(secret)) {
            let word = decision(approve);
            links[word] = json!(format!("{shown}/decide?decision={word}&expires_ms={expires_ms}&token={token}"));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_word_about_one_approval_of_one_kernel() {
        let purpose = Purpose { kernel_id: "k", approval: "apr-1", approve: true, expires_ms: 5 };
        let token = purpose.token("secret").unwrap();
        assert!(purpose.is_of("secret", &token));
        for other in [
            Purpose { kernel_id: "l", ..purpose },
            Purpose { approval: "apr-2", ..purpose },
            Purpose { approve: false, ..purpose },
            Purpose { expires_ms: 6, ..purpose },
        ] {
            assert!(!other.is_of("secret", &token), "{other:?}");
        }
        assert!(!purpose.is_of("other", &token) && !purpose.is_of("secret", "zz") && !purpose.is_of("secret", ""));
    }

    #[test]
    fn links_decide_only_where_there_is_a_secret() {
        let of = |file: &ApprovalsFile| links(file, ("prod", "prod-2"), "apr-1", 5);
        let open = ApprovalsFile::default();
        assert_eq!(of(&open), json!({"show": "/kernels/prod/approvals/apr-1"}));
        let secret = Some("s".repeat(32));
        let told = of(&ApprovalsFile { webhook_secret: secret, public_url: Some("https://g/".into()), ..open });
        let approve = told["approve"].as_str().unwrap();
        assert!(
            approve.starts_with("https://g/kernels/prod/approvals/apr-1/decide?decision=approve&expires_ms=5&token=")
        );
    }
}
