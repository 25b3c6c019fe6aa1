//! spin
#![allow(missing_docs)]
use kasmina::backend::*; use kasmina::bench::*; use kasmina::telemetry::Telemetry;
fn main() { let a: Vec<String> = std::env::args().collect(); let share: f32 = a[1].parse().unwrap(); let tel = a[2] == "1"; let n: usize = a[3].parse().unwrap();
 let mut b = Bench::new(Shape { rows: 1024, width: 4096, seeds: 1024 }, share).unwrap(); let mut c = kasmina::cpu::Cpu::new(Some(1)); c.load(&b.sample.view(), Changed::All).unwrap(); let mut t = Telemetry::default();
 let ts = std::fs::read_to_string("/proc/self/schedstat").unwrap(); let t0: f64 = ts.split(' ').next().unwrap().parse().unwrap();
 for i in 0..n { let (x, y) = (&b.inputs[i % 8], &mut b.outputs[i % 8]); if tel { c.forward(x, 1024, y, Some(&mut t)).unwrap(); } else { c.forward(x, 1024, y, None).unwrap(); } }
 let ts = std::fs::read_to_string("/proc/self/schedstat").unwrap(); let t1: f64 = ts.split(' ').next().unwrap().parse().unwrap(); println!("{:.2} ms", (t1 - t0) * 1e-6 / n as f64); }
