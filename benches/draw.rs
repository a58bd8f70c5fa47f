//! Bars beside one another, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// Values in groups, one bar of each series in a group.
pub struct Bars {
    /// What is shown, with its unit.
    pub title: String,
    /// The names of the series.
    pub series: Vec<String>,
    /// The name of each group, and a value for each series; 0 draws nothing.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// Draws into a file, whose folder is made if it is not there.
pub fn draw_bars(path: &Path, bars: &Bars) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let top = bars.groups.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&root)
        .caption(&bars.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..bars.groups.len() as f64, 0.0..top.max(f64::MIN_POSITIVE))?;
    let name = |at: &f64| bars.groups.get(*at as usize).map_or(String::new(), |(name, _)| name.clone());
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(bars.groups.len() + 1)
        .x_label_formatter(&name)
        .x_label_offset(60)
        .draw()?;
    let width = 0.8 / bars.series.len().max(1) as f64;
    for (nth, series) in bars.series.iter().enumerate() {
        let color = Palette99::pick(nth).mix(0.85);
        let bar = |(group, (_, values)): (usize, &(String, Vec<f64>))| {
            let left = group as f64 + 0.1 + nth as f64 * width;
            let value = values.get(nth).copied().unwrap_or(0.0);
            Rectangle::new([(left, 0.0), (left + width * 0.9, value)], color.filled())
        };
        chart
            .draw_series(bars.groups.iter().enumerate().map(bar))?
            .label(series)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
