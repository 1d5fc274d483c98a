//! An explanation: every decision a line, each port with its endpoints, and the conclusion at the end.

use comfy_table::Color;

use super::{Draw, Text, cell, draw, line, optional, right};
use crate::observe::explain::{Conclusion, Endpoint, Explanation, Port, Step, Verdict};

pub(in crate::cli) fn explanation(explanation: &Explanation, colours: bool) -> String {
    let draw = Draw { colours };
    let mut text = String::new();
    line(
        &mut text,
        draw.bold(&format!("{} → {}", explanation.pod, explanation.service)),
    );
    draw.steps(&explanation.steps, &mut text);
    for port in &explanation.ports {
        draw.port(port, &mut text);
    }
    let colour = match explanation.conclusion {
        Conclusion::Balanced => Color::Green,
        Conclusion::Partly => Color::Yellow,
        Conclusion::NotBalanced | Conclusion::UnknownPod | Conclusion::UnknownService => Color::Red,
    };
    text.push('\n');
    line(&mut text, draw.paint(&explanation.sentence, colour));
    if let Some(remedy) = &explanation.remedy {
        line(&mut text, format!("What to change: {remedy}"));
    }
    text
}

impl Draw {
    fn steps(self, steps: &[Step], text: &mut String) {
        for step in steps {
            let mark = match step.verdict {
                Verdict::Yes => self.paint("✓", Color::Green),
                Verdict::No => self.paint("✗", Color::Red),
                Verdict::Note => self.paint("·", Color::Yellow),
            };
            line(
                text,
                Text::from("  ") + mark + format!(" {:<12} {}", step.about, step.says),
            );
        }
    }

    fn port(self, port: &Port, text: &mut String) {
        text.push('\n');
        line(text, self.bold(&port.id));
        self.steps(&port.steps, text);
        if port.endpoints.is_empty() {
            return;
        }
        let mut table = self.table(&[
            "  endpoint",
            "node",
            "picked",
            "connections",
            "running",
            "calls",
            "errors",
            "why",
        ]);
        right(&mut table, &[3, 4, 5, 6]);
        for endpoint in &port.endpoints {
            let (picked, colour) = picked(endpoint);
            table.add_row(vec![
                cell(format!("  {}", endpoint.address)),
                cell(optional(endpoint.node.as_ref())),
                self.cell(picked, colour),
                cell(endpoint.connections),
                cell(endpoint.streams),
                cell(endpoint.calls),
                cell(endpoint.errors),
                cell(&endpoint.verdict),
            ]);
        }
        draw(text, &table);
    }
}

/// Whether the pod picks it, in a word.
fn picked(endpoint: &Endpoint) -> (&'static str, Color) {
    match (endpoint.eligible, endpoint.picked) {
        (false, _) => ("no", Color::Yellow),
        _ if endpoint.failed => ("failed", Color::Red),
        (true, Some(true)) => ("yes", Color::Green),
        (true, Some(false)) => ("not of its subset", Color::Yellow),
        (true, None) => ("would be", Color::Green),
    }
}

#[cfg(test)]
mod tests;
