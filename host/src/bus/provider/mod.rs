//! Where completions come from: nobody, a stub, or an endpoint that speaks `OpenAI`'s protocol.

mod openai;
mod stub;

use crate::config::{CompletionServiceFile, ProviderKind};
use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gavel_bus::services::{Completion, CompletionLimits, Prompt, Provider};
use openai::OpenAi;
use std::sync::Arc;
use std::time::Duration;
use stub::Stub;

/// The provider of a configuration, and what the service may use.
///
/// # Errors
/// When the provider cannot be made: a key that cannot be read, an address that is none.
pub fn of(file: &CompletionServiceFile) -> Result<(Arc<dyn Provider>, CompletionLimits)> {
    let limits = CompletionLimits {
        timeout: Duration::try_from_secs_f64(file.timeout).context("plugins.completion_service.timeout")?,
        running_max: file.max_running,
        waiting_max: file.max_waiting,
        finished_kept: file.max_finished,
    };
    let provider: Arc<dyn Provider> = match file.provider {
        ProviderKind::None => Arc::new(Nobody),
        ProviderKind::Stub => Arc::new(Stub::new(file)),
        ProviderKind::OpenAi => Arc::new(OpenAi::new(file, limits.timeout)?),
    };
    Ok((provider, limits))
}

/// No provider is configured.
struct Nobody;

impl Provider for Nobody {
    fn name(&self) -> String {
        "none".to_owned()
    }

    fn complete(&self, _prompt: Prompt) -> BoxFuture<'_, Result<Completion, (String, String)>> {
        let why = "no provider of completions is configured: set plugins.completion_service.provider to openai or stub";
        std::future::ready(Err(("NO_PROVIDER".to_owned(), why.to_owned()))).boxed()
    }
}
