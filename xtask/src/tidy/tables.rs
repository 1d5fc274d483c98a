//! The tables of ARCHITECTURE.md. Each stands behind a comment, `<!-- tidy: name -->`; what counts is what is written as
//! `code` in its cells, the rest is for people.

use anyhow::{Context, Result};

/// A row: the code words of each cell.
pub(super) type Row = Vec<Vec<String>>;

/// The rows of the table behind `<!-- tidy: name -->`, without its head.
pub(super) fn table(page: &str, name: &str) -> Result<Vec<Row>> {
    let marker = format!("<!-- tidy: {name} -->");
    let (_, behind) = page
        .split_once(&marker)
        .with_context(|| format!("{}: no table behind {marker}", super::ARCHITECTURE))?;
    let rows = behind
        .lines()
        .skip_while(|line| line.trim().is_empty())
        .take_while(|line| line.starts_with('|'));
    Ok(rows.skip(2).map(row).collect())
}

/// The words in the first cell of each row.
pub(super) fn first_column(page: &str, name: &str) -> Result<Vec<String>> {
    Ok(table(page, name)?
        .into_iter()
        .filter_map(|row| row.into_iter().next())
        .flatten()
        .collect())
}

fn row(line: &str) -> Row {
    line.trim_matches('|')
        .split('|')
        .map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "text\n<!-- tidy: a -->\n\n| room | uses |\n| --- | --- |\n| `x` | `y`, `z` |\n| `y`, `q` | nothing |\n\n| `not` | `this` |\n";

    #[test]
    fn a_table_is_the_code_words_of_its_cells() {
        let rows = table(PAGE, "a").unwrap();
        assert_eq!(
            rows,
            [
                vec![vec!["x".to_owned()], vec!["y".to_owned(), "z".to_owned()]],
                vec![vec!["y".to_owned(), "q".to_owned()], vec![]]
            ]
        );
        assert_eq!(first_column(PAGE, "a").unwrap(), ["x", "y", "q"]);
    }

    #[test]
    fn a_table_that_is_not_there_is_an_error() {
        assert!(table(PAGE, "b").is_err());
    }
}
