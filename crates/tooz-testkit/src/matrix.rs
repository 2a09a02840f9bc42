//! The committed capability matrix: the only place that may excuse a driver from an area.

use std::collections::BTreeMap;

use tooz_core::DriverEntry;

use crate::Area;

/// A Markdown table of setups and areas, whose cells are `yes` or `no: reason`.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: BTreeMap<String, Row>,
}

type Row = BTreeMap<Area, Cell>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cell {
    Yes,
    No(String),
}

impl Matrix {
    /// Reads the first table of `text` whose first column is `setup`. The other columns are the
    /// areas, each once, in any order.
    ///
    /// # Errors
    /// What is wrong with the table.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().skip_while(|line| cells(line).first() != Some(&"setup"));
        let header = lines.next().ok_or("the matrix has no table whose first column is setup")?;
        let columns: Vec<_> = cells(header)[1..]
            .iter()
            .map(|name| {
                let area = Area::ALL.into_iter().find(|area| area.name() == *name);
                area.ok_or_else(|| format!("the matrix has the column {name}, which is no area"))
            })
            .collect::<Result<_, _>>()?;
        for area in Area::ALL {
            if columns.iter().filter(|column| **column == area).count() != 1 {
                return Err(format!("the matrix must have the column {area} once"));
            }
        }
        let mut rows = BTreeMap::new();
        for line in lines.skip(1).take_while(|line| line.trim_start().starts_with('|')) {
            let (setup, row) = parse_row(line, &columns)?;
            if rows.insert(setup.clone(), row).is_some() {
                return Err(format!("the matrix has two rows for {setup}"));
            }
        }
        Ok(Self { rows })
    }

    /// Why a case that belongs to `areas` is not run on `setup`; `None` if it is.
    pub(crate) fn excuse(&self, setup: &str, areas: impl Iterator<Item = Area>) -> Option<&str> {
        let row = self.rows.get(setup)?;
        areas.into_iter().find_map(|area| match &row[&area] {
            Cell::Yes => None,
            Cell::No(reason) => Some(reason.as_str()),
        })
    }

    /// Whether the row says the same as the driver's own record.
    pub(crate) fn agrees(&self, setup: &str, driver: &DriverEntry) -> Result<(), String> {
        let row = self
            .rows
            .get(setup)
            .ok_or_else(|| format!("the matrix has no row for the setup {setup}"))?;
        for (area, cell) in row {
            match (cell, area.declared(driver)) {
                (Cell::Yes, Some(false)) => {
                    return Err(format!(
                        "the matrix says yes to {area} on {setup}, and the driver {} does not \
                         declare what that needs",
                        driver.name
                    ));
                }
                (Cell::No(reason), Some(true)) => {
                    return Err(format!(
                        "the matrix says no to {area} on {setup} ({reason}), and the driver {} \
                         declares all that it needs",
                        driver.name
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn parse_row(line: &str, columns: &[Area]) -> Result<(String, Row), String> {
    let cells = cells(line);
    let (setup, cells) = cells.split_first().ok_or("the matrix has an empty row")?;
    if cells.len() != columns.len() {
        return Err(format!(
            "the row of {setup} has {} cells for {} areas",
            cells.len(),
            columns.len()
        ));
    }
    let row = columns
        .iter()
        .zip(cells)
        .map(|(area, cell)| match cell.split_once(':') {
            None if *cell == "yes" => Ok((*area, Cell::Yes)),
            Some(("no", reason)) if !reason.trim().is_empty() => {
                Ok((*area, Cell::No(reason.trim().to_owned())))
            }
            _ => Err(format!("the cell {area} of {setup} is {cell:?}; write yes or no: reason")),
        })
        .collect::<Result<_, _>>()?;
    Ok(((*setup).to_owned(), row))
}

/// The cells of a table's line, without the space and the code marks around them.
fn cells(line: &str) -> Vec<&str> {
    let line = line.trim();
    let Some(line) = line.strip_prefix('|') else { return Vec::new() };
    let line = line.strip_suffix('|').unwrap_or(line);
    line.split('|').map(|cell| cell.trim().trim_matches('`')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(row: &str) -> String {
        let columns: Vec<_> = Area::ALL.iter().map(|area| area.name()).collect();
        format!(
            "words\n\n| setup | {} |\n|{}\n{row}\n\nmore words",
            columns.join(" | "),
            "---|".repeat(columns.len() + 1)
        )
    }

    fn row(last: &str) -> String {
        format!("| `x` | {} {last} |", "yes |".repeat(Area::ALL.len() - 1))
    }

    #[test]
    fn cells_are_yes_or_no_with_a_reason() {
        let matrix = Matrix::parse(&table(&row("no: one process"))).unwrap();
        let excuse = |area| matrix.excuse("x", [Area::Locks, area].into_iter());
        assert_eq!(excuse(Area::Processes), Some("one process"));
        assert_eq!(excuse(Area::Groups), None);
        for bad in ["no", "no:", "maybe", ""] {
            let error = Matrix::parse(&table(&row(bad))).unwrap_err();
            assert!(error.contains("processes of x"), "{error}");
        }
    }

    #[test]
    fn a_table_with_other_columns_is_refused() {
        let text = table(&row("yes"));
        let error = Matrix::parse(&text.replace("| groups", "| grops")).unwrap_err();
        assert!(error.contains("grops"), "{error}");
        let error = Matrix::parse(&text.replace("| groups", "| locks")).unwrap_err();
        assert!(error.contains("column locks once"), "{error}");
        assert!(Matrix::parse("nothing").is_err());
        let error = Matrix::parse(&table(&format!("{0}\n{0}", row("yes")))).unwrap_err();
        assert!(error.contains("two rows"), "{error}");
    }

    #[test]
    fn it_must_agree_with_the_driver() {
        let yes = Matrix::parse(&table(&row("yes"))).unwrap();
        let no = Matrix::parse(&table(&row("no: one process"))).unwrap();
        let memory = tooz_memory::DRIVER;
        assert!(yes.agrees("x", &memory).unwrap_err().contains("does not declare"));
        assert_eq!(no.agrees("x", &memory), Ok(()));
        assert!(no.agrees("y", &memory).unwrap_err().contains("no row"));
        let everything =
            DriverEntry { characteristics: Area::Processes.characteristics(), ..memory };
        assert!(no.agrees("x", &everything).unwrap_err().contains("declares all"));
    }
}
