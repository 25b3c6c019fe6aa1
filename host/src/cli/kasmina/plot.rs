//! The picture of a training run: accuracy, the blend of the seeds, and their stages, over the same epochs.
//!
//! It is an SVG file. One run has three panels; where two plans are compared they share the first, and each has the
//! other two for itself.

use anyhow::{Context, Result, anyhow};
use kasmina::state::Lifecycle;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// One run, as far as it is drawn.
#[derive(Debug, Clone, Default)]
pub(super) struct Drawn {
    /// What it is called where several are drawn.
    pub(super) name: String,
    /// Accuracy without any seed, in [0, 1].
    pub(super) baseline: f64,
    /// Accuracy after each epoch.
    pub(super) accuracy: Vec<f64>,
    /// For each epoch the blend of each seed.
    pub(super) alphas: Vec<Vec<f32>>,
    /// For each epoch the stage of each seed.
    pub(super) stages: Vec<Vec<Lifecycle>>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const WIDTH: u32 = 960;
const LEGEND_WIDTH: u32 = 170;
const TITLE_HEIGHT: u32 = 62;
const ACCURACY_HEIGHT: u32 = 280;
const ALPHA_HEIGHT: u32 = 220;
const ROW_HEIGHT: u32 = 22;
/// Rows for seeds that a panel has room for at least: its legend needs it.
const ROWS_MIN: usize = 5;
/// What a panel needs beside what it draws: its heading and its axis.
const PANEL_EXTRA: u32 = 62;
const LABELS_WIDTH: u32 = 64;
/// Seeds that are drawn; a layer can have 100,000. Those that did most come first.
const SEEDS_MAX: usize = 16;
/// Points of a line; a longer run is thinned.
const POINTS_MAX: usize = 600;

const INK: RGBColor = RGBColor(38, 38, 43);
const FAINT: RGBColor = RGBColor(110, 110, 118);
const GRID: RGBColor = RGBColor(228, 228, 232);
/// Okabe and Ito's colours, which the colour-blind can tell apart; the pale yellow is darkened for a white ground.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(120, 94, 62),
    RGBColor(60, 60, 66),
];

/// Draw runs into a file.
pub(super) fn write(path: &Path, title: &str, subtitle: &str, runs: &[Drawn]) -> Result<()> {
    let svg = draw(title, subtitle, runs).map_err(|why| anyhow!("the plot cannot be drawn: {why}"))?;
    std::fs::write(path, svg).with_context(|| format!("the plot cannot be written to {}", path.display()))
}

fn draw(title: &str, subtitle: &str, runs: &[Drawn]) -> Result<String, Box<dyn std::error::Error>> {
    let shown: Vec<Vec<usize>> = runs.iter().map(busiest).collect();
    let rows_height = |seeds: &[usize]| PANEL_EXTRA + ROW_HEIGHT * small(seeds.len().max(ROWS_MIN));
    let panels: u32 = shown.iter().map(|seeds| ALPHA_HEIGHT + rows_height(seeds)).sum();
    let mut svg = String::new();
    {
        let size = (WIDTH, TITLE_HEIGHT + ACCURACY_HEIGHT + panels);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(title.to_owned(), (18, 16), text(20, INK)))?;
        root.draw(&Text::new(subtitle.to_owned(), (18, 42), text(13, FAINT)))?;
        let (_, rest) = root.split_vertically(TITLE_HEIGHT);
        let (top, mut rest) = rest.split_vertically(ACCURACY_HEIGHT);
        accuracy(&top, runs)?;
        for (run, seeds) in runs.iter().zip(&shown) {
            let (middle, below) = rest.split_vertically(ALPHA_HEIGHT);
            let (bottom, below) = below.split_vertically(rows_height(seeds));
            let of = if runs.len() > 1 { format!(", {}", run.name) } else { String::new() };
            alphas(&middle, &format!("Blend (alpha) of each seed{of}"), run, seeds)?;
            stages(&bottom, &format!("Stage of each seed{of}"), run, seeds)?;
            rest = below;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Seeds that left DORMANT, those with the most epochs outside it first, then all in the order of their numbers.
fn busiest(run: &Drawn) -> Vec<usize> {
    let seeds = run.stages.iter().map(Vec::len).max().unwrap_or_default();
    let busy = |seed: usize| {
        run.stages.iter().filter(|stages| stages.get(seed).is_some_and(|stage| *stage != Lifecycle::Dormant)).count()
    };
    let mut found: Vec<(usize, usize)> = (0..seeds).map(|seed| (busy(seed), seed)).filter(|at| at.0 > 0).collect();
    found.sort_by_key(|&(epochs, seed)| (std::cmp::Reverse(epochs), seed));
    found.truncate(SEEDS_MAX);
    let mut shown: Vec<usize> = found.into_iter().map(|(_, seed)| seed).collect();
    shown.sort_unstable();
    shown
}

fn accuracy(area: &Area<'_>, runs: &[Drawn]) -> Result<(), Box<dyn std::error::Error>> {
    let all = runs.iter().flat_map(|run| run.accuracy.iter().chain([&run.baseline]));
    let (low, high) = all.fold((1.0_f64, 0.0_f64), |(low, high), &value| (low.min(value), high.max(value)));
    let room = (0.06 * (high - low)).max(0.01);
    let range = (low - room).max(0.0)..(high + room).min(1.0);
    let (plot, legend) = headed(area, "Accuracy on held-out images")?;
    let epochs = runs.iter().map(|run| run.accuracy.len()).max().unwrap_or_default();
    let mut chart = axes(&plot, epochs, range, |value| format!("{:.0} %", 100.0 * value))?;
    let mut entries = Vec::new();
    for (run, colour) in runs.iter().zip(COLOURS) {
        let of = if runs.len() > 1 { format!("{}: ", run.name) } else { String::new() };
        let dashes = [(0.0, run.baseline), (position(epochs), run.baseline)];
        chart.draw_series(DashedLineSeries::new(dashes, 5, 4, colour.mix(0.75).stroke_width(1)))?;
        let points = thinned(run.accuracy.len()).map(|at| (position(at + 1), run.accuracy[at]));
        let points = std::iter::once((0.0, run.baseline)).chain(points);
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        let last = run.accuracy.last().copied().unwrap_or(run.baseline);
        entries.push((colour, format!("{of}with seeds, {:.1} %", 100.0 * last)));
        entries.push((blend(colour), format!("{of}without, {:.1} %", 100.0 * run.baseline)));
    }
    keys(&legend, &entries)
}

fn alphas(area: &Area<'_>, heading: &str, run: &Drawn, seeds: &[usize]) -> Result<(), Box<dyn std::error::Error>> {
    let (plot, legend) = headed(area, heading)?;
    let mut chart = axes(&plot, run.alphas.len(), 0.0..1.04, |value| format!("{value:.1}"))?;
    let mut entries = Vec::new();
    for (order, (group, points)) in together(run, seeds).into_iter().enumerate() {
        let colour = COLOURS[order % COLOURS.len()];
        // The second eight have the same colours, thinner.
        let width = if order < COLOURS.len() { 2 } else { 1 };
        chart.draw_series(LineSeries::new(points, colour.stroke_width(width)))?;
        entries.push((colour, named(&group)));
    }
    if entries.is_empty() {
        entries.push((FAINT, "no seed grew".to_owned()));
    }
    keys(&legend, &entries)
}

fn stages(area: &Area<'_>, heading: &str, run: &Drawn, seeds: &[usize]) -> Result<(), Box<dyn std::error::Error>> {
    let (plot, legend) = headed(area, heading)?;
    let rows = position(seeds.len().max(ROWS_MIN));
    let mut chart = axes(&plot, run.stages.len(), 0.0..rows, |_| String::new())?;
    let mut seen = Vec::new();
    for (row, &seed) in seeds.iter().enumerate() {
        let (top, bottom) = (rows - position(row) - 0.12, rows - position(row) - 0.88);
        for (stage, from, to) in spans(run, seed) {
            let corners = [(position(from), top), (position(to), bottom)];
            chart.draw_series([Rectangle::new(corners, colour_of(stage).filled())])?;
            seen.push(stage);
        }
        let (x, y) = chart.plotting_area().map_coordinate(&(0.0, f64::midpoint(top, bottom)));
        let style = text(12, INK).pos(Pos::new(HPos::Right, VPos::Center));
        // They are coordinates of the whole picture.
        let (left, above) = area.get_base_pixel();
        area.draw(&Text::new(format!("seed {seed}"), (x - left - 8, y - above), style))?;
    }
    seen.sort_unstable();
    seen.dedup();
    let entries: Vec<_> = seen.into_iter().map(|stage| (colour_of(stage), stage.name().to_owned())).collect();
    keys(&legend, &entries)
}

/// Seeds, and the points of a line.
type Group = (Vec<usize>, Vec<(f64, f64)>);

/// The seeds whose blends took the same way, with that way: one line would hide the others.
fn together(run: &Drawn, seeds: &[usize]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &seed in seeds {
        let at = |epoch: usize| f64::from(run.alphas[epoch].get(seed).copied().unwrap_or_default());
        let points: Vec<_> = thinned(run.alphas.len()).map(|epoch| (position(epoch + 1), at(epoch))).collect();
        let points = bends(&points);
        match groups.iter_mut().find(|(_, other)| *other == points) {
            Some((group, _)) => group.push(seed),
            None => groups.push((vec![seed], points)),
        }
    }
    groups
}

/// Seeds that a legend has room to name one by one.
const NAMED_MAX: usize = 6;

fn named(seeds: &[usize]) -> String {
    let mut names: Vec<String> = seeds.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if seeds.len() > NAMED_MAX {
        names.push("…".to_owned());
    }
    format!("seed{} {}", if seeds.len() > 1 { "s" } else { "" }, names.join(", "))
}

/// The runs of epochs that a seed was in one stage; DORMANT is the ground and not drawn.
fn spans(run: &Drawn, seed: usize) -> Vec<(Lifecycle, usize, usize)> {
    let mut spans: Vec<(Lifecycle, usize, usize)> = Vec::new();
    for (epoch, stages) in run.stages.iter().enumerate() {
        let stage = stages.get(seed).copied().unwrap_or(Lifecycle::Dormant);
        match spans.last_mut() {
            Some(last) if last.0 == stage => last.2 = epoch + 1,
            _ => spans.push((stage, epoch, epoch + 1)),
        }
    }
    spans.retain(|span| span.0 != Lifecycle::Dormant);
    spans
}

/// From pale to deep as a seed becomes part of the network; what ends it is red, grey or black.
fn colour_of(stage: Lifecycle) -> RGBColor {
    match stage {
        Lifecycle::Dormant => RGBColor(245, 245, 247),
        Lifecycle::Germinated => RGBColor(189, 189, 196),
        Lifecycle::Training => RGBColor(158, 202, 225),
        Lifecycle::Grafting => RGBColor(66, 146, 198),
        Lifecycle::Stabilization => RGBColor(8, 81, 156),
        Lifecycle::Evaluating => RGBColor(253, 190, 80),
        Lifecycle::FineTuning => RGBColor(230, 126, 20),
        Lifecycle::Fossilized => RGBColor(35, 139, 69),
        Lifecycle::Culled => RGBColor(203, 24, 29),
        Lifecycle::Cancelled => RGBColor(150, 120, 130),
        Lifecycle::RolledBack => RGBColor(20, 20, 24),
    }
}

/// The part of a panel to draw in and the part for its legend, beneath its heading.
fn headed<'a>(area: &Area<'a>, heading: &str) -> Result<(Area<'a>, Area<'a>), Box<dyn std::error::Error>> {
    let mut style = text(14, INK);
    style.font = style.font.style(FontStyle::Bold);
    area.draw(&Text::new(heading.to_owned(), (18, 6), style))?;
    let (_, below) = area.split_vertically(24);
    Ok(below.split_horizontally(WIDTH - LEGEND_WIDTH))
}

fn axes<'a>(
    plot: &Area<'a>,
    epochs: usize,
    range: std::ops::Range<f64>,
    label: fn(f64) -> String,
) -> Result<Chart<'a>, Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(plot)
        .margin_top(4)
        .margin_right(14)
        .x_label_area_size(34)
        .y_label_area_size(LABELS_WIDTH)
        .build_cartesian_2d(0.0..position(epochs.max(1)), range)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .x_desc("epoch")
        .x_labels(11)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_labels(if label(0.0).is_empty() { 0 } else { 6 })
        .y_label_formatter(&|value| label(*value))
        .label_style(text(12, INK))
        .axis_desc_style(text(12, FAINT))
        .draw()?;
    Ok(chart)
}

fn keys(legend: &Area<'_>, entries: &[(RGBColor, String)]) -> Result<(), Box<dyn std::error::Error>> {
    let (_, height) = legend.dim_in_pixel();
    let pitch = ((height.saturating_sub(24)) / small(entries.len().max(1))).clamp(11, 19);
    let style = text(12, INK).pos(Pos::new(HPos::Left, VPos::Center));
    for (order, (colour, name)) in (0_i32..).zip(entries) {
        let y = 12 + order * i32::try_from(pitch)?;
        legend.draw(&Rectangle::new([(2, y - 5), (14, y + 5)], colour.filled()))?;
        legend.draw(&Text::new(name.clone(), (20, y), style.clone()))?;
    }
    Ok(())
}

/// A colour as it looks half transparent on white.
fn blend(colour: RGBColor) -> RGBColor {
    let half = |part: u8| part / 2 + 127;
    RGBColor(half(colour.0), half(colour.1), half(colour.2))
}

/// Only the points at which a line bends, so that a long run makes a small file.
fn bends(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let straight = |at: usize| {
        let (before, here, after) = (points[at - 1], points[at], points[at + 1]);
        ((here.1 - before.1) * (after.0 - here.0) - (after.1 - here.1) * (here.0 - before.0)).abs() < 1e-6
    };
    let kept = (0..points.len()).filter(|&at| at == 0 || at + 1 == points.len() || !straight(at));
    kept.map(|at| points[at]).collect()
}

/// Evenly spread numbers below `count`, the last among them, at most [`POINTS_MAX`].
fn thinned(count: usize) -> impl Iterator<Item = usize> {
    let every = count.div_ceil(POINTS_MAX).max(1);
    (0..count).filter(move |at| (count - 1 - at).is_multiple_of(every))
}

fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    let mut style = TextStyle::from(("sans-serif", size));
    style.color = colour.to_backend_color();
    style
}

#[allow(clippy::cast_precision_loss, reason = "epochs and rows are far below 2^52")]
fn position(number: usize) -> f64 {
    number as f64
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lifecycle::{Culled, Dormant, Fossilized, Grafting, Training};

    fn run(epochs: usize) -> Drawn {
        let stage = |epoch: usize| if epoch < 2 { Training } else { Grafting };
        Drawn {
            name: "A".to_owned(),
            baseline: 0.5,
            accuracy: vec![0.6; epochs],
            alphas: (0..epochs).map(|epoch| vec![0.0, if epoch < 2 { 0.0 } else { 0.5 }]).collect(),
            stages: (0..epochs).map(|epoch| vec![Dormant, stage(epoch)]).collect(),
        }
    }

    #[test]
    fn a_seed_that_never_left_dormant_is_not_drawn() {
        assert_eq!(busiest(&run(4)), [1]);
        let svg = draw("title <&>", "below", &[run(4)]).unwrap();
        assert!(svg.contains("seed 1") && !svg.contains("seed 0"));
        assert!(svg.contains("title &lt;&amp;&gt;") && svg.contains("with seeds, 60.0 %"), "{svg}");
        assert!(svg.contains("TRAINING") && !svg.contains("FOSSILIZED"));
    }

    #[test]
    fn of_a_huge_layer_the_busiest_seeds_are_drawn() {
        let stages =
            (0..50).map(|epoch| (0..1_000).map(|seed| if epoch < seed % 40 { Culled } else { Dormant }).collect());
        let seeds = busiest(&Drawn { stages: stages.collect(), ..Drawn::default() });
        assert_eq!(seeds.len(), SEEDS_MAX);
        assert!(seeds.is_sorted() && seeds.iter().all(|seed| seed % 40 == 39), "{seeds:?}");
    }

    #[test]
    fn spans_cover_what_is_not_dormant() {
        let of = |stages: &[Lifecycle]| Drawn { stages: stages.iter().map(|&s| vec![s]).collect(), ..Drawn::default() };
        let spans_of = |stages: &[Lifecycle]| spans(&of(stages), 0);
        assert_eq!(spans_of(&[Dormant, Training, Training, Culled, Dormant]), [(Training, 1, 3), (Culled, 3, 4)]);
        assert_eq!(spans_of(&[Fossilized]), [(Fossilized, 0, 1)]);
        assert_eq!(spans_of(&[]), []);
    }

    #[test]
    fn long_runs_are_thinned_and_keep_their_end() {
        for count in [0, 1, 2, POINTS_MAX, POINTS_MAX + 1, 100_000] {
            let points: Vec<usize> = thinned(count).collect();
            assert!(points.len() <= POINTS_MAX && points.last().copied() == count.checked_sub(1), "{count}");
        }
    }

    #[test]
    fn straight_lines_lose_their_middle() {
        let points = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.5), (4.0, 1.0), (5.0, 1.0)];
        assert_eq!(bends(&points), [(0.0, 0.0), (2.0, 0.0), (4.0, 1.0), (5.0, 1.0)]);
    }

    #[test]
    fn seeds_that_are_blended_alike_share_a_line() {
        let alphas = (0..9_u8).map(|epoch| [0.1, 0.1, 0.2].map(|step| step * f32::from(epoch)).to_vec()).collect();
        let run = Drawn { alphas, ..Drawn::default() };
        let groups: Vec<String> = together(&run, &[0, 1, 2]).iter().map(|(group, _)| named(group)).collect();
        assert_eq!(groups, ["seeds 0, 1", "seed 2"]);
        assert_eq!(named(&[1, 2, 3, 4, 5, 6, 7]), "seeds 1, 2, 3, 4, 5, 6, …");
    }

    #[test]
    fn runs_without_epochs_or_seeds_are_drawn_all_the_same() {
        for run in [Drawn::default(), run(1)] {
            assert!(draw("t", "s", &[run.clone(), run]).is_ok());
        }
    }
}
