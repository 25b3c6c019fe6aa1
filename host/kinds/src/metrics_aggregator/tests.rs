//! The metrics aggregator through its router, over a fleet that is played, and over kills.

use super::KIND;
use crate::trial::{Hands, Play, Trial, live, main_api};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};

const HOUR: u64 = 3_600_000;
/// The beginning of an hour.
const NOW: u64 = 472_000 * HOUR;

/// A fleet of one healthy kernel `audit_trail`, a stopped one, and an alert service that hears.
#[derive(Clone, Default)]
struct Fleet {
    front: Arc<Mutex<String>>,
    audit: Arc<Mutex<String>>,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Fleet {
    fn play(&self) -> Play {
        let this = self.clone();
        Arc::new(move |what, body| {
            let text = |of: &Mutex<String>| (200, of.lock().unwrap().clone());
            match what {
                "GET /kernel-ports/assignments" => {
                    let one = |name: &str, status: &str| json!({"name": name, "status": status});
                    let all = json!([one("audit_trail", "healthy"), one("governance", "stopped")]);
                    (200, json!({"assignments": all}).to_string())
                }
                "GET /metrics" => text(&this.front),
                "GET /audit_trail/metrics" => text(&this.audit),
                what if what.starts_with("POST /alert_service/") => {
                    this.heard.lock().unwrap().push((what.to_owned(), body.clone()));
                    (200, json!({"id": "a-1", "status": "open"}).to_string())
                }
                other => (404, json!({"error": other}).to_string()),
            }
        })
    }

    fn requests(&self, good: u64, bad: u64) {
        *self.front.lock().unwrap() = format!(
            "# TYPE gavel_fleet_requests counter\n\
             gavel_fleet_requests_total{{kernel=\"governance\",status=\"200\",from=\"client\"}} {good}\n\
             gavel_fleet_requests_total{{kernel=\"governance\",status=\"503\",from=\"client\"}} {bad}\n\
             gavel_fleet_requests_total{{kernel=\"governance\",status=\"503\",from=\"fleet\"}} {good}\n# EOF\n"
        );
    }

    async fn open(&self, folder: &Path, settings: Value, hands: &Hands) -> Trial {
        let peers = main_api(KIND.name, self.play()).await;
        let trial = Trial::open(&KIND, folder, settings, hands, peers).await;
        // The first scrape is its own; the clock stands still meanwhile.
        crate::trial::until("the first scrape", || async {
            let targets = trial.ask("GET /targets", &Value::Null).await;
            (targets["targets"]["front"]["at_ms"] == hands.now()).then_some(())
        })
        .await;
        trial
    }
}

/// The values of the points of the one series of an answer.
fn values(answer: &Value) -> Vec<f64> {
    let series = answer["series"].as_array().unwrap();
    assert_eq!(series.len(), 1, "{answer}");
    series[0]["points"].as_array().unwrap().iter().map(|point| point[1].as_f64().unwrap()).collect()
}

fn near(told: &[f64], wanted: &[f64]) {
    assert!(
        told.len() == wanted.len() && told.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9),
        "{told:?} {wanted:?}"
    );
}

/// Scrapes come when the test asks for them.
fn seldom() -> Value {
    json!({"scrape_every_ms": HOUR})
}

#[test]
fn counters_are_counted_over_resets_births_and_kills() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(100, 0);
    let audit = |text: &str| *fleet.audit.lock().unwrap() = format!("# TYPE a counter\n# TYPE g gauge\n{text}");
    audit("a_total 5\ng 3\n");
    let query = format!("GET /query?name=a_total&fn=increase&from={NOW}&step=60000");
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        for (text, forward) in [
            ("a_total 8\ng 9\n", 30_000),
            ("a_total 2\ng -1\n", 30_000),
            ("a_total 2\na_total{x=\"new\"} 4\ng 1\n", 15_000),
        ] {
            hands.forward(forward);
            audit(text);
            trial.ask("POST /scrape", &Value::Null).await;
        }
        near(&values(&trial.ask(&format!("{query}&merge=true"), &Value::Null).await), &[3.0, 6.0]);
        near(&values(&trial.ask(&format!("{query}&x=new"), &Value::Null).await), &[0.0, 4.0]);
    });
    live(async {
        hands.forward(30_000);
        audit("a_total 12\na_total{x=\"new\"} 4\ng 1\n");
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        near(&values(&trial.ask(&format!("{query}&merge=true"), &Value::Null).await), &[3.0, 16.0]);
        let gauge = |name: &str| format!("GET /query?name=g&fn={name}&from={NOW}&step=60000&instance=audit_trail");
        near(&values(&trial.ask(&gauge("max"), &Value::Null).await), &[9.0, 1.0]);
        near(&values(&trial.ask(&gauge("min"), &Value::Null).await), &[3.0, -1.0]);
        near(&values(&trial.ask(&gauge("avg"), &Value::Null).await), &[6.0, 1.0 / 3.0]);
        let rate = format!("GET /query?name=a_total&fn=rate&from={NOW}&to={}&step=60000&merge=true", NOW + 60_000);
        near(&values(&trial.ask(&rate, &Value::Null).await), &[0.05]);
        let (status, _) = trial.call("auditor", "GET /query?name=g&fn=rate", &Value::Null).await;
        assert_eq!(status, 422, "a gauge has no rate");
        let series = trial.ask("GET /series?match=a_*", &Value::Null).await;
        assert_eq!(series["total"], 2);
        let targets = trial.ask("GET /targets", &Value::Null).await;
        assert_eq!(targets["targets"]["audit_trail"]["ok"], true);
        assert!(targets["targets"].get("governance").is_none(), "only healthy ones are asked: {targets}");
    });
}

#[test]
fn what_is_rolled_up_is_what_was_scraped() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(0, 0);
    let mut total = 0;
    // Five hours, with a kill in each; raw numbers are kept for ten minutes, minutes for three hours.
    let settings = json!({"scrape_every_ms": HOUR, "raw_keep_ms": 600_000, "minute_keep_ms": 3 * HOUR});
    for _ in 0..5 {
        live(async {
            let trial = fleet.open(folder.path(), settings.clone(), &hands).await;
            for minute in 0..60 {
                total += minute % 7;
                hands.forward(60_000);
                fleet.requests(total, 0);
                trial.ask("POST /scrape", &Value::Null).await;
            }
        });
    }
    live(async {
        let trial = fleet.open(folder.path(), settings.clone(), &hands).await;
        let of = "name=gavel_fleet_requests_total&status=200&fn=increase";
        let hourly = trial.ask(&format!("GET /query?{of}&from={NOW}&step={HOUR}"), &Value::Null).await;
        let hours = values(&hourly);
        assert_eq!(hourly["grain"], "hour");
        near(&[hours.iter().sum()], &[f64::from(u32::try_from(total).unwrap())]);
        assert_eq!(hours.len(), 6, "the last scrape began another hour: {hourly}");
        let fine = trial.ask(&format!("GET /query?{of}&from={}&step=60000", NOW + 3 * HOUR), &Value::Null).await;
        near(&[values(&fine).iter().sum()], &[hours[3..].iter().sum()]);
        let old = trial.ask(&format!("GET /query?{of}&from={NOW}&to={}&step=60000", NOW + HOUR), &Value::Null).await;
        assert_eq!(old["grain"], "hour", "its minutes are kept no more");
        near(&values(&old), &hours[..1]);
    });
}

#[test]
fn histograms_have_quantiles() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(0, 0);
    let set = |a: u64, b: u64| {
        *fleet.audit.lock().unwrap() = format!(
            "# TYPE h histogram\nh_bucket{{le=\"0.1\"}} {a}\nh_bucket{{le=\"0.2\"}} {b}\nh_bucket{{le=\"+Inf\"}} {b}\nh_count {b}\n"
        );
    };
    set(0, 0);
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        hands.forward(15_000);
        set(0, 10);
        trial.ask("POST /scrape", &Value::Null).await;
        let of = |share: &str| format!("GET /query?name=h&fn={share}&from={NOW}&step=60000");
        near(&values(&trial.ask(&of("p50"), &Value::Null).await), &[0.15]);
        // Once more from a rolled-up row, in which the bucket that did not grow is missing.
        hands.forward(60_000);
        trial.ask("POST /scrape", &Value::Null).await;
        near(&values(&trial.ask(&of("p99"), &Value::Null).await), &[0.199]);
    });
}

#[test]
fn series_are_bounded_and_what_finds_no_room_is_told() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(1, 1);
    *fleet.audit.lock().unwrap() = (0..10).map(|n| format!("m{{n=\"{n}\"}} 1\n")).collect::<Vec<_>>().concat();
    live(async {
        let trial = fleet.open(folder.path(), json!({"scrape_every_ms": HOUR, "series_max": 5}), &hands).await;
        let series = trial.ask("GET /series", &Value::Null).await;
        assert_eq!((&series["total"], &series["dropped"]), (&json!(5), &json!(8)));
        assert_eq!(trial.ask("GET /health", &Value::Null).await["series_dropped"], 8);
        *fleet.audit.lock().unwrap() = "<html>".to_owned();
        hands.forward(1_000);
        let told = trial.ask("POST /scrape", &Value::Null).await;
        let error = told["targets"]["audit_trail"]["error"].as_str().unwrap();
        assert!(error.starts_with("/audit_trail/metrics: line 1"), "{error}");
    });
}

#[test]
fn a_budget_that_burns_is_told_once_and_its_end_too() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(1_000, 0);
    let scrape = async |trial: &Trial, good, bad, forward| {
        hands.forward(forward);
        fleet.requests(good, bad);
        trial.ask("POST /scrape", &Value::Null).await;
    };
    let heard = || fleet.heard.lock().unwrap().clone();
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        scrape(&trial, 1_500, 0, 60_000).await;
        assert!(heard().is_empty());
        scrape(&trial, 1_900, 100, 60_000).await;
        assert_eq!(heard().len(), 1);
        let (to, alert) = heard().remove(0);
        assert_eq!(to, "POST /alert_service/alerts");
        assert_eq!(
            (&alert["name"], &alert["dedupe_key"]),
            (&json!("objective_burning"), &json!("objective:main_api_availability"))
        );
        scrape(&trial, 1_950, 120, 60_000).await;
        assert_eq!(heard().len(), 1, "told once");
        let one = trial.ask("GET /objectives/main_api_availability", &Value::Null).await;
        assert_eq!((&one["good"], &one["total"], &one["burning"]), (&json!(950.0), &json!(1_070.0), &json!(true)));
        assert!(one["error_budget"]["left_share"].as_f64().unwrap() < 0.0 && one["met"] == false, "{one}");
    });
    live(async {
        hands.forward(60_000);
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        let one = trial.ask("GET /objectives/main_api_availability", &Value::Null).await;
        assert_eq!(one["burning"], true, "it is known over a kill");
        scrape(&trial, 9_000, 120, 2 * HOUR).await;
        assert_eq!(heard().last().unwrap().0, "POST /alert_service/alerts/a-1/resolve");
        let one = trial.ask("GET /objectives/main_api_availability", &Value::Null).await;
        assert_eq!(one["burning"], false);
    });
}

#[test]
fn a_burning_objective_that_is_dropped_leaves_no_alert() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(1_000, 0);
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        hands.forward(60_000);
        fleet.requests(1_900, 100);
        trial.ask("POST /scrape", &Value::Null).await;
        trial.ask("DELETE /objectives/main_api_availability", &Value::Null).await;
    });
    let heard = fleet.heard.lock().unwrap().clone();
    let paths: Vec<&str> = heard.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["POST /alert_service/alerts", "POST /alert_service/alerts/a-1/resolve"]);
    assert_eq!(heard[1].1["note"], "the objective was dropped");
}

#[test]
fn objectives_are_set_checked_and_dropped_for_good() {
    let (folder, hands, fleet) = (tempfile::tempdir().unwrap(), Hands::at(NOW), Fleet::default());
    fleet.requests(1, 0);
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        let all = trial.ask("GET /objectives", &Value::Null).await;
        let names: Vec<_> = all["objectives"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["decision_latency", "main_api_availability"]);
        assert_eq!(all["objectives"][0]["compliance"], Value::Null, "nothing is known of it");
        let mine = json!({"good": {"name": "a"}, "total": {"name": "b"}, "target": 0.9, "window_ms": 86_400_000});
        trial.ask("PUT /objectives/mine", &mine).await;
        trial.ask("DELETE /objectives/decision_latency", &Value::Null).await;
        for (key, value) in
            [("target", json!(1.0)), ("window_ms", json!(1)), ("other", json!(1)), ("good", json!({"name": ""}))]
        {
            let mut wrong = mine.clone();
            wrong[key] = value;
            assert_eq!(trial.call("operator", "PUT /objectives/wrong", &wrong).await.0, 422, "{key}");
        }
        assert_eq!(trial.call("auditor", "PUT /objectives/mine", &mine).await.0, 403);
    });
    live(async {
        let trial = fleet.open(folder.path(), seldom(), &hands).await;
        let all = trial.ask("GET /objectives", &Value::Null).await;
        let names: Vec<_> = all["objectives"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["main_api_availability", "mine"]);
        assert_eq!(trial.call("operator", "DELETE /objectives/decision_latency", &Value::Null).await.0, 404);
    });
}
