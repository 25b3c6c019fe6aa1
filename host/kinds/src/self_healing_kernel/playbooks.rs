//! What can be done about a component, and which of it is tried for what, in which order.
//!
//! The table is the specification's, and it is the law here: a playbook that it does not name for an issue is never chosen,
//! looking comes before acting, and experience may only put off what never helped, not drop it and not add to it.

use super::store::Effect;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A playbook. Guardian carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Playbook {
    pub(super) name: &'static str,
    pub(super) must_do: &'static str,
    pub(super) must_never: &'static str,
    /// It changes nothing, so there is nothing to verify after it.
    pub(super) only_looks: bool,
}

const RESTART: Playbook = Playbook {
    name: "restart_component",
    must_do: "stop (TERM, then KILL after its grace), start, pass /health; report each step with its time",
    must_never: "claim success unverified; lose acknowledged state",
    only_looks: false,
};
const CLEAR: Playbook = Playbook {
    name: "clear_port",
    must_do: "free a port that our own stale process holds; a foreign holder is reported with its pid and name",
    must_never: "signal a process that it did not start",
    only_looks: false,
};
const DIAGNOSE: Playbook = Playbook {
    name: "diagnose_network",
    must_do: "listening, reachable, interfaces, holder of the port, file descriptors, memory, recommendations; read-only",
    must_never: "mark anything healthy",
    only_looks: true,
};
const REBIND: Playbook = Playbook {
    name: "rebind_port",
    must_do: "a spare port of the same tier: start there, health-check, switch registry and proxy in one step, no failed request",
    must_never: "leave a route on the old port",
    only_looks: false,
};

pub(super) const PLAYBOOKS: [Playbook; 4] = [RESTART, CLEAR, DIAGNOSE, REBIND];

/// What is not in the table is only looked into.
pub(super) const UNKNOWN: &str = "unknown";

/// Issues with their playbooks, in order.
pub(super) const ISSUES: [(&str, &[Playbook]); 7] = [
    ("port_not_listening", &[DIAGNOSE, RESTART]),
    ("connection_timeout", &[DIAGNOSE, CLEAR, RESTART]),
    ("connection_refused", &[RESTART, CLEAR]),
    ("port_conflict", &[CLEAR, REBIND]),
    ("process_crashed", &[RESTART]),
    ("network_unreachable", &[DIAGNOSE]),
    (UNKNOWN, &[DIAGNOSE]),
];

/// The issue of this name, as the table has it.
pub(super) fn issue(name: &str) -> (&'static str, &'static [Playbook]) {
    ISSUES.into_iter().find(|(issue, _)| *issue == name).unwrap_or((UNKNOWN, &[DIAGNOSE]))
}

/// A playbook that is chosen, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) playbook: String,
    pub(super) reasons: Vec<String>,
    pub(super) must_do: String,
    pub(super) must_never: String,
    /// What it did for this component and issue so far.
    pub(super) effect: Effect,
}

/// How often something must have been in vain before it is put off.
const VAIN_MIN: u64 = 3;

/// What to try for an issue, in order. `effect` tells what a playbook did so far.
pub(super) fn choose(issue: &str, diagnosis: &Value, effect: impl Fn(&str) -> Effect) -> Vec<Choice> {
    let (issue, of_issue) = self::issue(issue);
    let mut chosen: Vec<(bool, Choice)> = of_issue
        .iter()
        .enumerate()
        .map(|(at, playbook)| {
            let effect = effect(playbook.name);
            let vain = !playbook.only_looks && effect.tried >= VAIN_MIN && effect.verified == 0;
            let mut reasons = vec![format!("the table names it for {issue}, in place {}", at + 1)];
            reasons.extend(advice(diagnosis).filter(|advice| advice.starts_with(playbook.name)).map(str::to_owned));
            match effect.tried {
                0 => {}
                tried if vain => reasons.push(format!("put off: it was tried {tried} times here, and never helped")),
                tried => reasons.push(format!("it was tried {tried} times here, and helped {} times", effect.verified)),
            }
            let (must_do, must_never) = (playbook.must_do.to_owned(), playbook.must_never.to_owned());
            (vain, Choice { playbook: playbook.name.to_owned(), reasons, must_do, must_never, effect })
        })
        .collect();
    // Stable: the order of the table, but for what was in vain.
    chosen.sort_by_key(|(vain, _)| *vain);
    chosen.into_iter().map(|(_, choice)| choice).collect()
}

fn advice(diagnosis: &Value) -> impl Iterator<Item = &str> {
    let all = diagnosis["recommendations"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(Value::as_str)
}

/// What a diagnosis and symptoms speak for, and why. `recommendations/NAME` of Guardian is the diagnosis.
pub(super) fn infer(symptoms: &[String], diagnosis: &Value) -> (&'static str, String) {
    let told = |issue, why: &str| (issue, why.to_owned());
    for advice in advice(diagnosis) {
        if advice.starts_with(CLEAR.name) || advice.starts_with(REBIND.name) {
            return ("port_conflict", format!("the diagnosis says: {advice}"));
        }
        if advice.starts_with(RESTART.name) {
            let issue = if advice.contains("no process") { "process_crashed" } else { "connection_timeout" };
            return (issue, format!("the diagnosis says: {advice}"));
        }
    }
    let words = [
        ("address in use", "port_conflict"),
        ("address already in use", "port_conflict"),
        ("conflict", "port_conflict"),
        ("refused", "connection_refused"),
        ("timeout", "connection_timeout"),
        ("timed out", "connection_timeout"),
        ("crash", "process_crashed"),
        ("exited", "process_crashed"),
        ("killed", "process_crashed"),
        ("unreachable", "network_unreachable"),
        ("not listening", "port_not_listening"),
    ];
    for symptom in symptoms {
        let lower = symptom.to_lowercase();
        if let Some((issue, _)) = ISSUES.into_iter().find(|(issue, _)| *issue == lower) {
            return told(issue, "the symptom is an issue of the table");
        }
        if let Some((word, issue)) = words.into_iter().find(|(word, _)| lower.contains(word)) {
            return (issue, format!("a symptom says '{word}'"));
        }
    }
    if diagnosis["diagnosis"]["listening"] == json!(false) {
        return told("port_not_listening", "the diagnosis says that nobody listens on its port");
    }
    told(UNKNOWN, "neither the diagnosis nor the symptoms speak for an issue of the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chosen: &[Choice]) -> Vec<&str> {
        chosen.iter().map(|choice| choice.playbook.as_str()).collect()
    }

    fn effect(tried: u64, verified: u64) -> Effect {
        Effect { tried, verified, ..Effect::default() }
    }

    #[test]
    fn the_table_is_that_of_the_specification() {
        let told = ISSUES.map(|(issue, of)| {
            let of: Vec<_> = of.iter().map(|playbook| playbook.name.split('_').next().unwrap()).collect();
            format!("{issue}: {}", of.join(", "))
        });
        assert_eq!(
            told,
            [
                "port_not_listening: diagnose, restart",
                "connection_timeout: diagnose, clear, restart",
                "connection_refused: restart, clear",
                "port_conflict: clear, rebind",
                "process_crashed: restart",
                "network_unreachable: diagnose",
                "unknown: diagnose",
            ]
        );
    }

    #[test]
    fn what_never_helped_is_put_off_and_never_dropped() {
        let all_of_restart = |name: &str| if name == RESTART.name { effect(3, 0) } else { effect(0, 0) };
        assert_eq!(
            names(&choose("connection_refused", &Value::Null, all_of_restart)),
            ["clear_port", "restart_component"]
        );
        let few = |name: &str| if name == RESTART.name { effect(2, 0) } else { effect(9, 9) };
        assert_eq!(names(&choose("connection_refused", &Value::Null, few)), ["restart_component", "clear_port"]);
        // Whatever happened, the same playbooks are there, and looking comes before acting.
        for (issue, of) in ISSUES {
            for bits in 0..16_u64 {
                let at = |name: &str| PLAYBOOKS.iter().position(|one| one.name == name).unwrap();
                let chosen =
                    choose(issue, &Value::Null, |name| effect(if bits >> at(name) & 1 == 1 { 5 } else { 0 }, 0));
                let mut sorted = names(&chosen);
                let mut wanted: Vec<_> = of.iter().map(|one| one.name).collect();
                assert_eq!(sorted[0] == DIAGNOSE.name, wanted[0] == DIAGNOSE.name, "{issue} {bits}");
                sorted.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(sorted, wanted);
            }
        }
    }

    #[test]
    fn an_issue_is_read_from_the_diagnosis_first() {
        let says = |advice: &str| json!({"recommendations": [advice], "diagnosis": {"listening": false}});
        let symptom = ["it timed out".to_owned()];
        assert_eq!(infer(&symptom, &says("rebind_port: x holds port 1 and is not ours")).0, "port_conflict");
        assert_eq!(infer(&symptom, &says("restart_component: `x` has no process")).0, "process_crashed");
        assert_eq!(infer(&symptom, &says("`x` says itself what is wrong")).0, "connection_timeout");
        assert_eq!(infer(&[], &says("")).0, "port_not_listening");
        assert_eq!(infer(&["odd".to_owned()], &json!({"diagnosis": {"listening": true}})).0, UNKNOWN);
        assert_eq!(infer(&["port_conflict".to_owned()], &Value::Null).0, "port_conflict");
    }
}
