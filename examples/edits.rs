//! Edits instead of a rewritten graph: the host keeps its own program and changes it in place, so that nothing of what
//! only it knows (here: line numbers) goes through another IR. The same edits are printed as JSON, for a host in another
//! process.
//!
//! ```sh
//! cargo run --example edits
//! ```

mod host;

use std::{collections::BTreeMap, error::Error};

use host::{Inst, Kind, Program};
use normfuse::{
    ir::{DType, Descriptor, ValueId},
    passes::{self, Options, edits::Edit},
};

/// Applies one edit: the fused op and its ports go where the first replaced instruction that they stand for was.
fn apply(program: &Program, edit: &Edit, known: &BTreeMap<ValueId, usize>) -> Result<Program, Box<dyn Error>> {
    // Position of each replaced value, and the port that takes its place.
    let ports: BTreeMap<usize, usize> =
        edit.outputs.iter().enumerate().flat_map(|(i, o)| o.values.iter().map(move |v| (known[&v.id], i))).collect();
    let gone: Vec<&str> = edit.replaces.iter().map(|n| n.name.as_str()).collect();
    let at = program.0.iter().rposition(|i| gone.contains(&i.name.as_str())).ok_or("nothing to replace")?;
    let mut new = Program::default();
    let mut place: BTreeMap<usize, usize> = BTreeMap::new();
    for (old, inst) in program.0.iter().enumerate() {
        if !gone.contains(&inst.name.as_str()) {
            place.insert(old, new.0.len());
            let args = inst.args.iter().map(|a| place[a]).collect();
            new.0.push(Inst { args, ..inst.clone() });
        }
        if old == at {
            let line = program.0[at].line;
            let args = edit.inputs.iter().map(|i| place[&known[&i.value.id]]).collect();
            let (dtype, shape) = (DType::F32, Vec::new());
            let op = new.0.len();
            let Descriptor::Norm(norm) = &edit.descriptor else {
                return Err("no quantiser is without a norm here".into());
            };
            let kind = Kind::Fused(Box::new((**norm).clone()));
            new.0.push(Inst { name: edit.name.clone(), kind, args, dtype, shape, line });
            for (i, output) in edit.outputs.iter().enumerate() {
                let dtype = output.ty.dtype.ok_or("a port has a type")?;
                let shape = output.ty.shape.iter().flat_map(|s| &s.0).map(|d| d.as_const().unwrap_or(-1)).collect();
                let name = output.values.first().map(|v| v.name.clone()).unwrap_or_default();
                for (value, _) in ports.iter().filter(|(_, port)| **port == i) {
                    place.insert(*value, new.0.len());
                }
                new.0.push(Inst { name, kind: Kind::Port(output.port), args: vec![op], dtype, shape, line });
            }
        }
    }
    Ok(new)
}

fn main() -> Result<(), Box<dyn Error>> {
    let source = Program::example();
    let (graph, known) = source.to_ir()?;
    let found = passes::edits(&graph, &Options { verify: true, ..Options::default() })?;
    println!("{}\n", serde_json::to_string_pretty(&found.edits)?);

    // The example has one site. With several, positions in `known` have to follow the program as it changes.
    let [edit] = found.edits.as_slice() else { return Err("expected one edit".into()) };
    assert!(edit.shape_readers.is_empty(), "this program does not ask for shapes");
    let fused = apply(&source, edit, &known)?;
    println!("{source}\nbecomes\n\n{fused}");
    let result = fused.0.last().ok_or("a program has a result")?;
    assert_eq!((result.name.as_str(), result.line), ("out", source.0[source.0.len() - 1].line));
    assert!(matches!(fused.0[result.args[0]].kind, Kind::Port(_)));
    Ok(())
}
