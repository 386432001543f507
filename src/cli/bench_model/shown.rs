//! Times of a model's forms, as a table and as JSON.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use normfuse::{cuda::measure::Time, passes::Report};
use serde_json::{Value, json};

use super::{super::table, Form, kinds::Kind, times::Sum};

/// A table: whole graphs, sums by kind, and each op; then what fusion takes away.
pub fn text(model: &Path, place: &str, report: &Report, forms: &[Form]) -> String {
    let count = report.summary.fused;
    let mut text = format!(
        "{} on {place}: fused {} norm_quant, {} norm, {} gated_act, {} quant; {} scaled products\n",
        model.display(),
        count.norm_quant,
        count.norm,
        count.gated_act,
        count.quant,
        report.products.len()
    );
    for form in forms {
        if let Some([launches, weights, arena]) = form.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (weights, arena) = (mib(weights), mib(arena));
            let _ =
                writeln!(text, "  {}: {launches} launches, weights {weights:.1} MiB, arena {arena:.1} MiB", form.name);
        }
    }
    let us = |us: f64| format!("{us:.1}");
    let spread = |t: &Time| format!("+-{:.1}%", t.spread() * 100.0);
    let cells = |sum: &dyn Fn(&Form) -> Sum| {
        let of = |form: &Form| match sum(form) {
            Sum { steps: 0, .. } => ["-", "-", ""].map(str::to_owned),
            Sum { steps, us: time } => [steps.to_string(), us(time), String::new()],
        };
        forms.iter().flat_map(of).collect::<Vec<_>>()
    };
    let row = |title: &str, cells: Vec<String>| [vec![title.to_owned()], cells].concat();
    let mut rows = vec![row("", forms.iter().flat_map(|f| [f.name, "us", ""].map(str::to_owned)).collect())];
    let whole = |f: &Form| [f.times.steps().0.to_string(), us(f.times.whole.us), spread(&f.times.whole)];
    rows.push(row("whole", forms.iter().flat_map(whole).collect()));
    let attends = |f: &Form| f.times.outside.is_some() && f.times.sum(|k, _| k == Kind::Attention).steps > 0;
    if forms.iter().any(attends) {
        let outside = |f: &Form| f.times.outside.map_or_else(|| "-".to_owned(), us);
        let cells = forms.iter().flat_map(|f| [String::new(), outside(f), String::new()]);
        rows.push(row("without attention", cells.collect()));
    }
    rows.push(row("steps, each alone", cells(&|f| f.times.sum(|_, _| true))));
    for kind in Kind::ALL {
        rows.push(row(kind.title(), cells(&|f| f.times.sum(|k, _| k == kind))));
    }
    let mut ops: Vec<&str> = forms
        .iter()
        .flat_map(|f| f.times.ops.keys())
        .map(|(_, op)| op.as_str())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let most = |op: &str| forms.iter().map(|f| f.times.sum(|_, o| o == op).us).fold(0.0, f64::max);
    ops.sort_by(|a, b| most(b).total_cmp(&most(a)));
    rows.extend(ops.into_iter().map(|op| row(&format!("  {op}"), cells(&|f| f.times.sum(|_, o| o == op)))));
    text.push_str(&table::columns(&rows));
    if let [source, apart, fused] = forms {
        let fusible = |f: &Form| f.times.sum(|k, _| k == Kind::Fusible).us;
        let less = |from: &Form| 100.0 * (1.0 - fusible(fused) / fusible(from));
        let away =
            format!("; of norms, quantisers and gates it takes {:.0} % and {:.0} % away", less(source), less(apart));
        let away = if fusible(source) > 0.0 && fusible(apart) > 0.0 { away } else { String::new() };
        let times = |from: &Form| from.times.whole.us / fused.times.whole.us;
        let _ = writeln!(
            text,
            "fused is {:.2} times as fast as the source, {:.2} times as fast as apart{away}",
            times(source),
            times(apart)
        );
    }
    text
}

/// The same numbers as one object on one line.
pub fn json(model: &Path, place: &str, report: &Report, forms: &[Form]) -> String {
    let sum = |s: Sum| json!({"steps": s.steps, "us": s.us});
    let form = |f: &Form| {
        let kinds: serde_json::Map<String, Value> =
            Kind::ALL.iter().map(|kind| (kind.name().to_owned(), sum(f.times.sum(|k, _| k == *kind)))).collect();
        let ops = f
            .times
            .ops
            .iter()
            .map(|((kind, op), s)| json!({"kind": kind.name(), "op": op, "steps": s.steps, "us": s.us}));
        let memory = f
            .memory
            .map(|[launches, weights, arena]| json!({"launches": launches, "weights": weights, "arena": arena}));
        json!({
            "form": f.name,
            "us": f.times.whole.us,
            "low": f.times.whole.low,
            "high": f.times.whole.high,
            "without_attention": f.times.outside,
            "memory": memory,
            "kinds": kinds,
            "ops": ops.collect::<Vec<_>>(),
        })
    };
    let all = json!({
        "model": model.file_name().unwrap_or(model.as_os_str()).to_string_lossy(),
        "device": place,
        "fused": report.summary.fused,
        "products": report.products.len(),
        "forms": forms.iter().map(form).collect::<Vec<_>>(),
    });
    format!("{all}\n")
}
