//! The plot of what was measured.

use std::error::Error;
use std::path::Path;

use benches::Rate;
use plotters::prelude::*;

use crate::wire::Table;

const SIZE: (u32, u32) = (900, 640);
const MARGIN: i32 = 12;

/// Draws the rates of peers above, and what goes over a stream beneath.
pub(crate) fn draw(path: &Path, rates: &[Rate], tables: &[Table]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (above, beneath) = area.split_vertically(SIZE.1 / 2);
    draw_rates(&above, rates)?;
    draw_costs(&beneath, tables)?;
    area.present()?;
    Ok(())
}

type Area<'p> = DrawingArea<SVGBackend<'p>, plotters::coord::Shift>;

fn draw_rates(area: &Area<'_>, rates: &[Rate]) -> Result<(), Box<dyn Error>> {
    let most = rates.iter().map(|rate| rate.megabytes).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(
            "Signatures of a dense image in 64 KiB, one thread, MB/s",
            ("sans-serif", 17),
        )
        .margin(MARGIN)
        .x_label_area_size(24)
        .y_label_area_size(8)
        .build_cartesian_2d(0.0..most * 1.02, 0.0..count(rates.len()))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .draw()?;
    for (row, rate) in rates.iter().rev().enumerate() {
        let bottom = count(row);
        let is_ours = rate.name.starts_with("Signer");
        let color = if is_ours {
            BLUE.mix(0.45)
        } else {
            BLACK.mix(0.15)
        };
        let corners = [(0.0, bottom + 0.1), (rate.megabytes, bottom + 0.9)];
        chart.draw_series([Rectangle::new(corners, color.filled())])?;
        let text = format!("{}: {:.0}", rate.name, rate.megabytes);
        let at = (most * 0.01, bottom + 0.72);
        chart.draw_series([Text::new(text, at, ("sans-serif", 14))])?;
    }
    Ok(())
}

fn draw_costs(area: &Area<'_>, tables: &[Table]) -> Result<(), Box<dyn Error>> {
    let rows = || tables.iter().flat_map(|table| &table.rows);
    let most = rows().map(|row| row.beside).max().unwrap_or(1);
    let blocks = rows().map(|row| row.changed).max().unwrap_or(1);
    let mut chart = ChartBuilder::on(area)
        .caption(
            "Bytes on the wire beside the changed blocks, 256 MiB",
            ("sans-serif", 17),
        )
        .margin(MARGIN)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d((1..blocks).log_scale(), (100..most * 2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("blocks changed, spread over the disk")
        .draw()?;
    for (table, color) in tables.iter().zip([BLUE, RED]) {
        let tree = table
            .rows
            .iter()
            .map(|row| (row.changed.max(1), row.beside));
        // Without any change there is no place on such an axis; it costs less than one.
        let tree: Vec<_> = tree.skip(1).collect();
        chart
            .draw_series(LineSeries::new(tree, color.stroke_width(2)).point_size(3))?
            .label(format!("tree, blocks of {}", table.block))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart
            .draw_series(LineSeries::new(
                [(1, table.list), (blocks, table.list)],
                color.mix(0.4),
            ))?
            .label(format!("list of all digests, blocks of {}", table.block))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.mix(0.4)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}
