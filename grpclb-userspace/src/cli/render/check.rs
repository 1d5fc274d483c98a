//! `grpclb check` of a cluster: its nodes, and the user's rights.

use comfy_table::Color;

use super::{Draw, Text, cell, draw, line, right};
use crate::cli::check::{Node, Report};
use crate::kernel::check::Verdict;

pub(in crate::cli) fn check(report: &Report, colours: bool) -> String {
    let how = Draw { colours };
    let mut text = String::new();
    line(
        &mut text,
        format!("Kubernetes {} at {}", report.kubernetes, report.cluster),
    );
    if !report.nodes.is_empty() {
        how.checked(&report.nodes, &mut text);
    }

    how.heading(&mut text, "Your rights");
    let mut table = how.table(&["", "right", "command"]);
    right(&mut table, &[0]);
    for right in &report.rights {
        let mark = if right.held {
            how.cell("✓", Color::Green)
        } else {
            how.cell("✗", Color::Yellow)
        };
        table.add_row(vec![mark, cell(&right.action), cell(right.command)]);
    }
    draw(&mut text, &table);
    text
}

impl Draw {
    fn checked(self, nodes: &[Node], text: &mut String) {
        self.heading(text, "Nodes");
        let mut table = self.table(&["node", "agent", "ready", "lacks"]);
        for node in nodes {
            let ready = if node.ready {
                self.cell("yes", Color::Green)
            } else {
                self.cell("no", Color::Red)
            };
            let lacks = if node.lacks.is_empty() && node.problem.is_none() {
                self.cell("nothing", Color::Green)
            } else {
                self.cell("see below", Color::Yellow)
            };
            table.add_row(vec![cell(&node.name), cell(&node.agent), ready, lacks]);
        }
        draw(text, &table);
        for node in nodes {
            self.lacks(node, text);
        }
    }

    fn lacks(self, node: &Node, text: &mut String) {
        if let Some(problem) = &node.problem {
            line(text, format!("  {}: {problem}", node.name));
        }
        for lack in &node.lacks {
            let mark = if lack.verdict == Verdict::Missing {
                self.paint("✗", Color::Red)
            } else {
                self.paint("!", Color::Yellow)
            };
            line(
                text,
                Text::from("  ")
                    + mark
                    + format!(
                        " {}: {}: {} → {}",
                        node.name, lack.subject, lack.found, lack.follows
                    ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Right;
    use crate::kernel::check::Line;

    #[test]
    fn what_a_node_lacks_stands_below_and_rights_are_marked() {
        let node = |name: &str, lacks| Node {
            name: name.to_owned(),
            agent: "grpclb:0.1.0".to_owned(),
            ready: true,
            lacks,
            problem: None,
        };
        let lack = Line {
            subject: "BTF".to_owned(),
            verdict: Verdict::Missing,
            found: "none".to_owned(),
            follows: "grpclb stays off".to_owned(),
        };
        let right = |command, held| Right {
            command,
            action: format!("do what {command} does"),
            held,
        };
        let report = Report {
            cluster: "https://a/".to_owned(),
            kubernetes: "v1.36.3".to_owned(),
            nodes: vec![node("node1", Vec::new()), node("node2", vec![lack])],
            rights: vec![right("status", true), right("adopt", false)],
        };
        assert!(!report.nodes[1].is_well());
        let expected = [
            "Kubernetes v1.36.3 at https://a/",
            "",
            "Nodes",
            "  NODE   AGENT         READY  LACKS",
            "  node1  grpclb:0.1.0  yes    nothing",
            "  node2  grpclb:0.1.0  yes    see below",
            "  ✗ node2: BTF: none → grpclb stays off",
            "",
            "Your rights",
            "     RIGHT                COMMAND",
            "  ✓  do what status does  status",
            "  ✗  do what adopt does   adopt",
        ];
        assert_eq!(check(&report, false).lines().collect::<Vec<_>>(), expected);
    }
}
