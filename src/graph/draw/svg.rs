//! A scene as a picture: SVG that needs nothing else, runs no script, and follows the reader's light or dark colours.

use std::fmt::Write;

use super::super::escape::xml;
use super::super::scene::Scene;
use super::content::{Pen, Text};
use super::place::{COLORS, Line, Picture, Role, Shape, place};

const FONTS: &str =
    "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono','Noto Sans Mono',monospace";

/// Colours of networks, on light and on dark ground.
const NETWORKS: [(&str, &str); COLORS] = [
    ("#0969da", "#4493f8"),
    ("#8250df", "#ab7df8"),
    ("#bc4c00", "#f0883e"),
    ("#1a7f37", "#3fb950"),
    ("#bf3989", "#f778ba"),
    ("#1b7c83", "#39c5cf"),
];

/// Colours of one ground.
struct Ground {
    paper: &'static str,
    card: &'static str,
    edge: &'static str,
    ink: &'static str,
    dim: &'static str,
    port: &'static str,
}

const LIGHT: Ground =
    Ground { paper: "#ffffff", card: "#f6f8fa", edge: "#d1d9e0", ink: "#1f2328", dim: "#59636e", port: "#116329" };
const DARK: Ground =
    Ground { paper: "#0d1117", card: "#161b22", edge: "#3d444d", ink: "#f0f6fc", dim: "#9198a1", port: "#56d364" };

/// The picture.
pub fn svg(scene: &Scene) -> String {
    let picture = place(scene);
    let mut text = String::new();
    let (width, height) = (picture.size.0.ceil(), picture.size.1.ceil());
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\">\n<title>The network of this machine</title>"
    );
    text.push_str(&style());
    let _ = writeln!(text, "<rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>");
    drawn(&picture, &mut text);
    text.push_str("</svg>\n");
    text
}

fn drawn(picture: &Picture, text: &mut String) {
    picture.lines.iter().for_each(|line| curve(line, text));
    picture.shapes.iter().for_each(|shape| boxed(shape, text));
    picture.texts.iter().for_each(|one| words(one, text));
    for line in picture.lines.iter().filter_map(|line| line.color.map(|color| (line.to, color))) {
        let ((x, y), color) = line;
        let _ = writeln!(text, "<circle class=\"f{color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
    }
}

fn style() -> String {
    let ground = |ground: &Ground, network: fn(&(&'static str, &'static str)) -> &'static str| {
        let Ground { paper, card, edge, ink, dim, port } = ground;
        let mut rules = format!(
            ".paper{{fill:{paper}}}.card{{fill:{card};stroke:{edge}}}.way{{stroke:{dim}}}.title,.body{{fill:{ink}}}\
             .dim{{fill:{dim}}}.port{{fill:{port}}}"
        );
        for (at, colors) in NETWORKS.iter().enumerate() {
            let color = network(colors);
            let _ = write!(rules, ".n{at}{{stroke:{color}}}.f{at}{{fill:{color}}}");
        }
        rules
    };
    format!(
        "<style>\ntext{{font-family:{FONTS}}}.title{{font-size:14px;font-weight:600}}.body,.port{{font-size:12px}}\
         .dim{{font-size:11px}}.line{{fill:none;stroke-width:1.6}}.way{{stroke-dasharray:2 4;stroke-width:1.4}}\
         .hub{{stroke-width:1.6}}.folded{{stroke-dasharray:4 3}}\n{}\n@media (prefers-color-scheme:dark){{{}}}\n</style>\n",
        ground(&LIGHT, |colors| colors.0),
        ground(&DARK, |colors| colors.1),
    )
}

fn curve(line: &Line, text: &mut String) {
    let ((x1, y1), (x2, y2)) = (line.from, (line.turn, line.to.1));
    let bend = (x2 - x1) * 0.5;
    let class = line.color.map_or_else(|| "way".to_owned(), |color| format!("n{color}"));
    let _ = writeln!(
        text,
        "<path class=\"line {class}\" d=\"M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}H{:.1}\"/>",
        x1 + bend,
        x2 - bend,
        line.to.0
    );
}

fn boxed(shape: &Shape, text: &mut String) {
    let ((x, y), (width, height)) = (shape.at, shape.size);
    let class = match shape.role {
        Role::Hub(color) => format!("card hub n{color}"),
        Role::Folded => "card folded".to_owned(),
        Role::Uplink | Role::Node => "card".to_owned(),
    };
    let radius = if shape.role == Role::Uplink { 18 } else { 6 };
    let _ = writeln!(
        text,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\"/>"
    );
    shape.texts.iter().for_each(|one| words(one, text));
}

fn words(one: &Text, text: &mut String) {
    let class = match one.pen {
        Pen::Title => "title",
        Pen::Body => "body",
        Pen::Port => "port",
        Pen::Dim | Pen::Gap => "dim",
    };
    let (x, y) = one.at;
    let _ = writeln!(text, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", xml(&one.text));
}
