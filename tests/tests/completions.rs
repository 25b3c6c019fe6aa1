//! Completions from an endpoint that speaks `OpenAI`'s protocol, good and bad: a small server answers what the test tells it.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on has failed")]

use gavel::bus::provider;
use gavel::config::{CompletionServiceFile, ProviderKind};
use gavel_bus::services::{Completion, Prompt, Provider};
use gavel_tests::{FakeServer, Script};
use serde_json::{Value, json};
use std::sync::Arc;

type Answered = Result<Completion, (String, String)>;

fn file(url: &str) -> CompletionServiceFile {
    CompletionServiceFile {
        provider: ProviderKind::OpenAi,
        model: Some("m".to_owned()),
        base_url: Some(url.to_owned()),
        max_response_bytes: 4_096,
        ..CompletionServiceFile::default()
    }
}

fn made(file: &CompletionServiceFile) -> Arc<dyn Provider> {
    provider::of(file).unwrap().0
}

fn prompt(text: &str) -> Prompt {
    Prompt { prompt: text.to_owned(), ..Prompt::default() }
}

async fn ask(provider: &Arc<dyn Provider>, text: &str) -> Answered {
    provider.complete(prompt(text)).await
}

fn code(answered: Answered) -> String {
    answered.unwrap_err().0
}

fn said(text: &str) -> Script {
    let answer = json!({
        "model": "m-2026", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    });
    Script::answer(200, &answer.to_string(), &["content-type: application/json"])
}

/// The body of the n-th request.
fn body(server: &FakeServer, at: usize) -> Value {
    serde_json::from_str(server.requests()[at].split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn an_answer_and_what_was_asked_for_it() {
    let server = FakeServer::start(&[said("Hello.")]);
    let provider = made(&file(&server.url));
    let asked = Prompt {
        prompt: "hi".to_owned(),
        system: "Be kind.".to_owned(),
        model: "other".to_owned(),
        session_id: None,
        more: serde_json::from_value(json!({"temperature": 0, "agent_id": "a"})).unwrap(),
    };
    let answer = provider.complete(asked).await.unwrap();
    assert_eq!((answer.response.as_str(), answer.model.as_str()), ("Hello.", "m-2026"));
    assert_eq!(answer.usage, json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}));
    assert!(server.requests()[0].starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
    assert!(!server.requests()[0].to_ascii_lowercase().contains("authorization"), "without a key none is sent");
    let messages = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]);
    assert_eq!(body(&server, 0), json!({"model": "other", "messages": messages, "temperature": 0}));
}

#[tokio::test]
async fn a_conversation_goes_on_and_ends_where_it_is_too_long() {
    let broken = Script::answer(500, "", &[]);
    let server = FakeServer::start(&[said("one"), broken, said("two")]);
    let provider = made(&CompletionServiceFile { max_session_bytes: 20, max_sessions: 1, ..file(&server.url) });
    let session_id = ask(&provider, "first").await.unwrap().session_id;
    let go_on = |text: &str| provider.complete(Prompt { session_id: session_id.clone(), ..prompt(text) });
    assert_eq!(code(go_on("lost").await), "PROVIDER_ERROR");
    assert_eq!(go_on("then").await.unwrap().session_id, session_id);
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    // What was not answered was not said.
    let messages = json!([turn("user", "first"), turn("assistant", "one"), turn("user", "then")]);
    assert_eq!(body(&server, 2)["messages"], messages);
    assert_eq!(code(go_on("and so on").await), "SESSION_TOO_LONG");
    ask(&provider, "another").await.unwrap();
    assert_eq!(code(go_on("x").await), "SESSION_NOT_FOUND", "one is kept, the last");
}

#[tokio::test]
async fn what_goes_wrong_is_an_error_with_its_code() {
    let large = format!("\"{}\"", "x".repeat(5_000));
    for (script, code, told) in [
        (Script::answer(401, "no", &[]), "UNAUTHORIZED", "status 401"),
        (Script::answer(403, "no", &[]), "UNAUTHORIZED", "status 403"),
        (Script::answer(429, "slow down", &[]), "RATE_LIMITED", "status 429: slow down"),
        (Script::answer(500, "oh\n no", &[]), "PROVIDER_ERROR", "status 500: oh no"),
        (Script::answer(307, "", &["location: http://127.0.0.1:1/"]), "PROVIDER_ERROR", "status 307"),
        (Script::answer(200, "{", &[]), "PROVIDER_ERROR", "malformed"),
        (Script::answer(200, "{}", &[]), "PROVIDER_ERROR", "choices"),
        (Script::answer(200, r#"{"choices": []}"#, &[]), "PROVIDER_ERROR", "`choices` is empty"),
        (Script::answer(200, r#"{"choices": [{"message": {"content": null}}]}"#, &[]), "PROVIDER_ERROR", "content"),
        (Script::answer(200, &large, &[]), "RESPONSE_TOO_LARGE", "4096 bytes (max_response_bytes)"),
        (
            Script::SayAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
            "PROVIDER_ERROR",
            "did not answer",
        ),
        (Script::SayAndClose(Vec::new()), "PROVIDER_ERROR", "did not answer"),
    ] {
        let server = FakeServer::start(std::slice::from_ref(&script));
        let (found, why) = ask(&made(&file(&server.url)), "hi").await.unwrap_err();
        assert_eq!(found, code, "{script:?}: {why}");
        assert!(why.contains(told), "{why}");
        assert!(!why.contains("127.0.0.1"), "an address may hold what is nobody's business: {why}");
        assert_eq!(server.requests().len(), 1, "nothing is tried again");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_slow_or_not_there() {
    let server = FakeServer::start(&[Script::Never]);
    let slow = made(&CompletionServiceFile { timeout: 0.2, ..file(&server.url) });
    assert_eq!(code(ask(&slow, "hi").await), "TIMEOUT");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, why) = ask(&made(&file(&format!("http://{address}"))), "hi").await.unwrap_err();
    assert_eq!(code, "PROVIDER_ERROR", "{why}");
}

#[tokio::test]
async fn the_stub_says_it_back_counts_and_fails_when_told_to() {
    let stub =
        CompletionServiceFile { provider: ProviderKind::Stub, stub_fail_every: 3, ..CompletionServiceFile::default() };
    let stub = made(&stub);
    for number in 1..=6 {
        let answered = ask(&stub, "two words").await;
        if number % 3 == 0 {
            assert_eq!(code(answered), "PROVIDER_ERROR");
            continue;
        }
        let expected = Completion {
            response: "echo: two words".to_owned(),
            session_id: Some(format!("stub-session-{number}")),
            model: "stub".to_owned(),
            usage: json!({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}),
        };
        assert_eq!(answered.unwrap(), expected);
    }
}

#[tokio::test]
async fn without_a_provider_it_is_said_what_to_configure() {
    let (code, why) = ask(&made(&CompletionServiceFile::default()), "hi").await.unwrap_err();
    assert_eq!(code, "NO_PROVIDER");
    assert!(why.contains("plugins.completion_service.provider"), "{why}");
}
