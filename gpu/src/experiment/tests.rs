//! The demonstration on the reference backend.

use super::*;
use crate::cpu::Cpu;
use crate::digits;
use crate::govern::AllowAll;

fn plain() -> Result<Box<dyn Backend>, Error> {
    Ok(Box::new(Cpu::new(Some(1))))
}

fn go(plan: &Plan) -> (Report, Arc<Mutex<Library>>) {
    let library = Library::standard().shared();
    let mut tamiyo = plan.tamiyo(&library);
    let begun = std::time::Instant::now();
    let report =
        run(plan, &digits::load().unwrap(), &mut plain, &library, &mut tamiyo, &mut AllowAll, &mut |line, _| {
            eprintln!(
                "{} loss {:.4} val {:.4} acc {:.4} {:?} {:?} {:?} {:?} {:?}",
                line.epoch,
                line.loss,
                line.validation_accuracy,
                line.accuracy,
                line.alphas,
                line.stages,
                line.denoising_losses,
                line.evaluations,
                line.refused
            );
            for l in &line.landed {
                eprintln!("  {l:?}");
            }
        })
        .unwrap();
    eprintln!("took {:?}", begun.elapsed());
    eprintln!(
        "{} {} {} {} {}",
        report.baseline_epochs,
        report.baseline_accuracy,
        report.final_accuracy,
        report.baseline_loss,
        report.final_loss
    );
    (report, library)
}

#[test]
fn good() {
    let (report, _) = go(&Plan::digits());
    assert!(report.final_accuracy > report.baseline_accuracy + 0.03);
}

#[test]
fn bad() {
    let (report, _) = go(&Plan::digits().with_bad_blueprint());
    assert!(report.culled > 0 && report.restored_bit_for_bit);
}

#[test]
fn grid() {
    let e = |k: &str| std::env::var(k).unwrap();
    for (seed, rate) in [(1, 0.002), (2, 0.002), (3, 0.002), (1, 0.005), (2, 0.005)] {
        let mut plan = Plan::digits();
        let noise = e("NS");
        plan.network.noise = noise.parse().unwrap();
        plan.hidden = e("H").parse().unwrap();
        plan.random_seed = seed;
        plan.descriptions[0].task_rate = rate;
        let library = Library::standard().shared();
        let mut tamiyo = plan.tamiyo(&library);
        let begun = std::time::Instant::now();
        let report =
            run(&plan, &digits::load().unwrap(), &mut plain, &library, &mut tamiyo, &mut AllowAll, &mut |line, _| {
                if [102].contains(&line.epoch) {
                    eprintln!(
                        "G {noise} {rate} {} loss {:.4} val {:.4} acc {:.4} {:?}",
                        line.epoch, line.loss, line.validation_accuracy, line.accuracy, line.denoising_losses
                    );
                }
            })
            .unwrap();
        eprintln!(
            "G took {:?} {} {:.4} -> {:.4}, {:.4} -> {:.4} fossil {} culled {} back {}",
            begun.elapsed(),
            report.baseline_epochs,
            report.baseline_accuracy,
            report.final_accuracy,
            report.baseline_loss,
            report.final_loss,
            report.fossilized,
            report.culled,
            report.rolled_back
        );
    }
}
