//! What came of `grpclb adopt`, pod by pod.

use comfy_table::Color;

use super::{Draw, cell, count, draw, line, optional, right};
use crate::cli::adopt::{Adopted, Outcome};

pub(in crate::cli) fn adoption(outcome: &Outcome, colours: bool) -> String {
    let mut text = String::new();
    if outcome.request.is_none() {
        let pods = count(outcome.pods.len() as u64, "steered pod");
        line(
            &mut text,
            format!("Nothing to do: no connection of {pods} bypasses grpclb."),
        );
        return text;
    }
    let how = Draw { colours };
    let mut table = how.table(&["pod", "node", "found", "reset", "outcome"]);
    right(&mut table, &[2, 3]);
    let concerned = |pod: &&Adopted| !pod.is_done() || pod.found() > 0 || pod.bypassing > 0;
    for pod in outcome.pods.iter().filter(concerned) {
        let (said, colour) = said(pod);
        let adoption = pod.adoption.as_ref();
        table.add_row(vec![
            cell(&pod.pod),
            cell(&pod.node),
            cell(optional(adoption.and_then(|adoption| adoption.found))),
            cell(adoption.map_or(0, |adoption| adoption.reset)),
            how.cell(&said, colour),
        ]);
    }
    draw(&mut text, &table);
    let others = outcome.pods.iter().filter(|pod| !concerned(pod)).count();
    if others > 0 {
        line(
            &mut text,
            format!("  {} had none", count(others as u64, "other steered pod")),
        );
    }
    let reset = outcome
        .pods
        .iter()
        .filter_map(|pod| pod.adoption.as_ref())
        .map(|adoption| adoption.reset)
        .sum();
    text.push('\n');
    line(
        &mut text,
        format!(
            "{} reset; what their clients open instead is balanced.",
            count(reset, "connection")
        ),
    );
    text
}

fn said(pod: &Adopted) -> (String, Color) {
    match &pod.adoption {
        None => ("not taken up: see its agent's log".to_owned(), Color::Red),
        Some(adoption) => match &adoption.error {
            Some(error) => (error.clone(), Color::Red),
            None if adoption.ended => ("done".to_owned(), Color::Green),
            None => ("still going on".to_owned(), Color::Yellow),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::Adoption;

    #[test]
    fn each_pod_is_a_line_with_what_came_of_it() {
        let pod = |name: &str, adoption| Adopted {
            node: "node1".to_owned(),
            pod: name.to_owned(),
            bypassing: 3,
            adoption,
        };
        let done = Adoption {
            found: Some(3),
            reset: 3,
            ended: true,
            ..Adoption::default()
        };
        let outcome = Outcome {
            request: Some("r".to_owned()),
            pods: vec![pod("shop/a", Some(done)), pod("shop/b", None)],
        };
        let expected = [
            "  POD     NODE   FOUND  RESET  OUTCOME",
            "  shop/a  node1      3      3  done",
            "  shop/b  node1      -      0  not taken up: see its agent's log",
            "",
            "3 connections reset; what their clients open instead is balanced.",
        ];
        assert_eq!(adoption(&outcome, false).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_to_do_is_said_in_a_sentence() {
        let outcome = Outcome {
            request: None,
            pods: vec![Adopted::default()],
        };
        assert_eq!(
            adoption(&outcome, false),
            "Nothing to do: no connection of 1 steered pod bypasses grpclb.\n"
        );
    }
}
