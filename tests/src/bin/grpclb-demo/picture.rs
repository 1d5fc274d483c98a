//! The acts as a table with bars and a verdict each, and the line that says what they proved together.

use std::fmt::Write as _;

use crate::acts::Act;

/// The length of the bar of a backend that got every call.
const BAR: usize = 40;
/// One colour a backend.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// Four blocks of bars, coloured when `colours`.
pub(crate) fn table(acts: &[Act], colours: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = String::from("\n  One client, one connection: who answers its calls?\n\n");
    for (number, act) in acts.iter().enumerate() {
        let title = format!("  {}. {:<16}", number + 1, act.name);
        let errors = format!("{} errors", act.errors);
        let errors = if act.errors == 0 {
            errors
        } else {
            paint("31;1", &errors)
        };
        let _ = writeln!(out, "{} {} calls, {errors}", paint("1", &title), act.calls);
        for (index, (backend, calls)) in act.per_backend.iter().enumerate() {
            let all = act.calls.max(1);
            // Rounded to the nearest cell.
            let filled = usize::try_from((calls * BAR as u64 + all / 2) / all)
                .unwrap_or(BAR)
                .min(BAR);
            let bar = paint(&COLOURS[index % COLOURS.len()].to_string(), &"█".repeat(filled));
            let rest = paint("2", &"·".repeat(BAR - filled));
            let _ = writeln!(
                out,
                "     {backend:<11} {bar}{rest} {calls:>7} {:>5.1} %",
                *calls as f64 * 100.0 / all as f64
            );
        }
        let verdict = match act.verdict() {
            Ok(shown) => paint("32", &format!("✓ {shown}")),
            Err(missed) => paint("31;1", &format!("✗ {missed}")),
        };
        let _ = writeln!(out, "     {verdict}\n");
    }
    out
}

/// What all acts together proved, or that they did not.
pub(crate) fn conclusion(acts: &[Act]) -> String {
    if acts.iter().any(|act| act.verdict().is_err()) {
        return "✗ Not every act showed what it should.".to_owned();
    }
    let calls: u64 = acts.iter().map(|act| act.calls).sum();
    let backends = acts.first().map_or(0, |act| act.per_backend.len());
    format!(
        "✓ Same client, same address, {calls} calls, no error: one backend the plain way, all {backends} with grpclb, \
         and the plain way again once it is off or killed."
    )
}
