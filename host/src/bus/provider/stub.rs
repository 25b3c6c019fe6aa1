//! A provider that asks nobody: it says the prompt back, counts its words, and fails when it is told to. For tests of
//! clients, and for demonstrations.

use crate::config::CompletionServiceFile;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::{Completion, Prompt, Provider};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Answers with the prompt.
pub(super) struct Stub {
    model: String,
    delay: Duration,
    fail_every: u64,
    asked: AtomicU64,
}

impl Stub {
    pub(super) fn new(file: &CompletionServiceFile) -> Self {
        Self {
            model: file.model.clone().unwrap_or_else(|| "stub".to_owned()),
            delay: Duration::try_from_secs_f64(file.stub_delay).unwrap_or_default(),
            fail_every: file.stub_fail_every,
            asked: AtomicU64::new(0),
        }
    }

    async fn answer(&self, prompt: Prompt) -> Result<Completion, (String, String)> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if self.fail_every > 0 && number.is_multiple_of(self.fail_every) {
            let why = format!("request {number} fails, as every {}th does (stub_fail_every)", self.fail_every);
            return Err(("PROVIDER_ERROR".to_owned(), why));
        }
        let words = |text: &str| text.split_whitespace().count();
        let response = format!("echo: {}", prompt.prompt);
        let (asked, said) = (words(&prompt.system) + words(&prompt.prompt), words(&response));
        Ok(Completion {
            session_id: Some(prompt.session_id.unwrap_or_else(|| format!("stub-session-{number}"))),
            model: if prompt.model.is_empty() { self.model.clone() } else { prompt.model },
            usage: json!({ "prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said }),
            response,
        })
    }
}

impl Provider for Stub {
    fn name(&self) -> String {
        "stub".to_owned()
    }

    fn complete(&self, prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>> {
        self.answer(prompt).boxed()
    }
}
