//! The demonstration on the reference backend.

use super::*;
use crate::digits;
use crate::govern::AllowAll;
use crate::reference::Plain;

fn plain() -> Result<Box<dyn Backend>, Error> {
    Ok(Box::new(Plain::default()))
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
fn rates() {
    for (hidden, rate) in [(24, 0.003), (24, 0.01), (24, 0.03)] {
        let mut plan = Plan::digits();
        plan.hidden = hidden;
        plan.epochs = 105;
        plan.descriptions[0].denoising_rate = rate;
        let library = Library::standard().shared();
        let mut tamiyo = plan.tamiyo(&library);
        run(&plan, &digits::load().unwrap(), &mut plain, &library, &mut tamiyo, &mut AllowAll, &mut |line, _| {
            if [10, 50, 100, 104].contains(&line.epoch) { eprintln!("{hidden} {rate} {} acc {} {:?}", line.epoch, line.accuracy, line.denoising_losses); }
        }).unwrap();
    }
}
