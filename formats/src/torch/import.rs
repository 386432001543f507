//! A program to a graph: inputs, calls in order, results.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use normfuse_ir::{
    Graph, Op, Type, ValueId,
    op::{ForeignAttr, ForeignOp},
};

use super::{
    args::{Call, results, tensors_of, unknown_key},
    build::Builder,
    expr::Expr,
    ops::{self, Outcome},
    returned,
    schema::{Argument, InputSpec, Node, OutputSpec, Program, Role, SymArgument},
    version::TorchVersion,
    weights::{Weight, Weights},
};
use crate::{
    error::{FormatError, Result},
    parameters::{self, Parameter},
    ranges::{self, Range},
    reject::Reject,
};

/// Which guards the program was exported under, and by which torch, in the model's metadata.
const GUARDS: &str = "torch.export.guards";
const VERSION: &str = "torch.version";

/// What is assumed where the version matters and the program has none that can be read.
const UNVERSIONED: &str = "the program does not say which version of torch exported it: casts to f8e4m3fn are taken for \
                           those of torch before 2.13, which make NaN of what rounds to more than 448";

/// Namespace of an op that reads a part of a tensor subclass.
const INNER: &str = "torch.ops.export.access_subclass_inner_tensor.default";

/// The graph of a program.
///
/// # Errors
/// As [`super::read`].
pub fn import(name: &str, program: &Program, weights: &Weights<'_>) -> Result<Graph> {
    let module = &program.graph_module;
    let mut importer = Importer {
        b: Builder::new(
            name,
            TorchVersion::of(&program.torch_version),
            &module.graph.tensor_values,
            &module.graph.sym_int_values,
        ),
        program,
        weights,
        parameters: Vec::new(),
        pickled: BTreeMap::new(),
        computed: HashSet::new(),
        notes: Vec::new(),
    };
    importer.b.memory.decomposed = program.verifiers.iter().any(|v| v == "ATEN");
    importer.note_uses();
    importer.inputs()?;
    for (place, node) in module.graph.nodes.iter().enumerate() {
        importer.b.place = place;
        importer.node(node).map_err(|e| e.at_node(node.label()))?;
    }
    importer.outputs()?;
    Ok(importer.finish())
}

struct Importer<'p, 'w> {
    b: Builder<'p>,
    program: &'p Program,
    weights: &'w Weights<'w>,
    /// Parameters and buffers, in order.
    parameters: Vec<Parameter>,
    /// Pickled parameters by the graph's name for them.
    pickled: BTreeMap<&'p str, &'p str>,
    /// Numbers that nodes so far compute.
    computed: HashSet<&'p str>,
    notes: Vec<String>,
}

impl<'p> Importer<'p, '_> {
    /// What anybody reads: results that nobody does are not computed where that costs an op of its own.
    fn note_uses(&mut self) {
        let module = &self.program.graph_module;
        for (place, node) in module.graph.nodes.iter().enumerate() {
            let read = node.inputs.iter().flat_map(|a| tensors_of(&a.arg));
            self.b.last_read.extend(read.map(|t| (t, place)));
        }
        let results = module.signature.output_specs.iter().flat_map(|spec| match spec {
            OutputSpec::User(a) => tensors_of(a),
            OutputSpec::Mutation { arg, .. } => vec![arg.as_str()],
            OutputSpec::Other(_) => Vec::new(),
        });
        self.b.last_read.extend(results.map(|t| (t, usize::MAX)));
    }

    /// Inputs of the caller first, then parameters that nobody has given yet.
    fn inputs(&mut self) -> Result<()> {
        let specs = &self.program.graph_module.signature.input_specs;
        for spec in specs {
            match spec {
                InputSpec::User(Argument::Tensor(name)) => self.user_input(name).map_err(|e| at_input(e, name))?,
                // A number that was fixed at export: nobody reads it.
                InputSpec::User(
                    Argument::None | Argument::Int(_) | Argument::Float(_) | Argument::Bool(_) | Argument::Text(_),
                )
                | InputSpec::Tensor { .. } => {}
                InputSpec::Other(kind) if kind == "constant_input" => {}
                InputSpec::User(Argument::SymInt(SymArgument::Name(name))) => {
                    let e = FormatError::mismatch("inputs that are tensors", "a number of the caller's");
                    return Err(at_input(e, name).hint("pass sizes as shapes of tensors"));
                }
                InputSpec::User(other) => {
                    let found = other.unknown().map_or_else(|| other.described(), |key| format!("`{key}`"));
                    return Err(FormatError::mismatch("inputs that are tensors", found));
                }
                InputSpec::Other(kind) => {
                    return Err(FormatError::mismatch(
                        "inputs that are tensors, parameters or buffers",
                        format!("`{kind}`"),
                    ));
                }
            }
        }
        for spec in specs {
            if let InputSpec::Tensor { arg, name, role } = spec {
                self.weight(arg, name, *role).map_err(|e| e.at_port(format!("parameter `{name}`")))?;
            }
        }
        Ok(())
    }

    fn user_input(&mut self, name: &'p str) -> Result<()> {
        let ty = self.b.declared(name)?;
        let sizes = self.b.meta_sizes(name)?;
        let value = self.b.graph.add_input(name, ty);
        for (axis, size) in sizes.iter().enumerate() {
            self.b.symbol_at(size, value, axis);
        }
        self.b.memory.define(name, value, true)
    }

    fn weight(&mut self, arg: &'p str, name: &'p str, role: Role) -> Result<()> {
        let declared = self.b.form(arg)?;
        let value = match self.weights.get(name)? {
            Weight::Pickled => {
                self.pickled.insert(arg, name);
                return Ok(());
            }
            Weight::Unbound => self.without_data(name, declared),
            Weight::Stored(tensor, ops) => {
                let title = self.b.fresh_name(name);
                self.b.begin(&title, Vec::new());
                let mut value = self.b.graph.add_const(title, tensor);
                for op in ops {
                    value = match op {
                        Op::Expand => {
                            let mut sizes = self.b.meta_sizes(arg)?;
                            sizes.extend(self.b.is_complex(arg).then(|| Arc::new(Expr::Int(2))));
                            let operand = self.b.shape_operand(&sizes).map_err(bad)?;
                            self.b.one(Op::Expand, &[value, operand])?
                        }
                        op => self.b.one(op, &[value])?,
                    };
                }
                let found = self.b.ty(value);
                if (found.dtype, &found.shape) != (declared.dtype, &declared.shape) {
                    return Err(FormatError::mismatch(text(&declared), text(found)).hint("graph and data disagree"));
                }
                value
            }
        };
        if role != Role::Constant {
            self.parameter(name, value, role == Role::Transient);
        }
        self.b.memory.define(arg, value, true)
    }

    fn without_data(&mut self, name: &str, ty: Type) -> ValueId {
        let title = self.b.fresh_name(name);
        self.b.graph.add_input(title, ty)
    }

    /// Notes which value a parameter is.
    fn parameter(&mut self, name: &str, value: ValueId, transient: bool) {
        let title = &self.b.graph.value(value).name;
        let value = (title != name).then(|| title.clone());
        let tied = self.weights.tied(name);
        self.parameters.push(Parameter { value, tied, transient, ..Parameter::named(name) });
    }

    fn node(&mut self, node: &'p Node) -> Result<()> {
        for a in node.inputs.iter().map(|a| &a.arg).chain(&node.outputs) {
            if let Some(key) = a.unknown() {
                return Err(unknown_key(key).at_port(format!("`{}`", node.target)));
            }
        }
        if node.target == INNER && self.inner_tensor(node)? {
            return Ok(());
        }
        for a in node.inputs.iter().map(|a| &a.arg) {
            if let Some((arg, name)) = tensors_of(a).iter().find_map(|t| self.pickled.get_key_value(*t)) {
                return Err(FormatError::mismatch(
                    format!("data of the tensor `{name}`"),
                    "a pickled object, which normfuse never unpickles: it is code",
                )
                .at_port(format!("operand `{arg}`"))
                .hint("export the model with plain tensors: quantise after the export, or unwrap tensor subclasses"));
            }
        }
        self.computed.extend(node.outputs.iter().flat_map(Argument::computed));
        if self.is_integer(node)? || is_assertion(&node.target) {
            return self.reads_what_is_there(node);
        }
        self.b.begin(node.label(), node.metadata.metadata(&node.target));
        self.b.results_in(&results(node));
        let mut call = Call::new(&mut self.b, node);
        match ops::map(&mut call) {
            Ok(outcome) => self.enter(node, outcome),
            Err(Reject::Bad(e)) => Err(self.explained(e)),
            Err(Reject::Foreign(reason)) => {
                self.b.abandon();
                self.foreign(node, reason)
            }
        }
    }

    /// A node that leaves nothing behind in the graph: its operands must be there nevertheless.
    fn reads_what_is_there(&self, node: &'p Node) -> Result<()> {
        for a in &node.inputs {
            let tensors = tensors_of(&a.arg).into_iter().filter(|t| !self.b.memory.has(t));
            let numbers = a.arg.computed().into_iter().filter(|n| !self.computed.contains(n));
            if let Some(name) = tensors.chain(numbers).next() {
                let e = FormatError::mismatch("an operand that an input or an earlier node makes", format!("`{name}`"));
                return Err(self.explained(e.at_port(format!("argument `{}`", a.name))));
            }
        }
        Ok(())
    }

    /// An operand that only a later node makes is a cycle, or nodes out of order.
    fn explained(&self, e: FormatError) -> FormatError {
        let text = e.to_string();
        let later = self.program.graph_module.graph.nodes.iter().flat_map(results);
        let mut later = later.filter(|n| !self.b.memory.has(n));
        let named = text.contains("an operand that an input or an earlier node makes");
        match later.find(|n| named && text.ends_with(&format!("found `{n}`"))) {
            Some(_) => e.hint("a later node makes it: the nodes are on a cycle or out of order"),
            None => e,
        }
    }

    /// A part of a pickled tensor subclass: the graph says what type it has, and so it is a parameter without data.
    fn inner_tensor(&mut self, node: &'p Node) -> Result<bool> {
        let mut call = Call::new(&mut self.b, node);
        let (Ok(of), Ok(attr), Ok(result)) = (call.name("src_subclass_tensor"), call.text("attr", ""), call.result())
        else {
            return Ok(false);
        };
        let Some(name) = self.pickled.get(of).copied() else { return Ok(false) };
        let ty = self.b.declared(result)?;
        let inner = format!("{name}.{attr}");
        let value = self.without_data(&inner, ty);
        self.parameter(&inner, value, false);
        self.b.memory.define(result, value, true)?;
        Ok(true)
    }

    /// A node that computes an integer: what it is stands in its expression. A size of a tensor is also where a symbol's
    /// number can be read.
    fn is_integer(&mut self, node: &'p Node) -> Result<bool> {
        let [Argument::SymInt(SymArgument::Name(name))] = node.outputs.as_slice() else {
            let kinds =
                |a: &Argument| matches!(a, Argument::Other(k) | Argument::Sym(k, _) if k.starts_with("as_sym_"));
            return Ok(!node.outputs.is_empty() && node.outputs.iter().all(kinds));
        };
        let size = self.b.sym_int(name)?;
        if node.target == "torch.ops.aten.sym_size.int" {
            let mut call = Call::new(&mut self.b, node);
            if let (Ok(value), Ok(axis)) = (call.tensor("self"), call.required("dim")) {
                let axis = self.b.axis(value, axis).map_err(bad)?;
                self.b.symbol_at(&size, value, axis);
            }
        }
        Ok(true)
    }

    fn enter(&mut self, node: &'p Node, outcome: Outcome<'p>) -> Result<()> {
        let names = results(node);
        match outcome {
            Outcome::Done => {}
            Outcome::Values(values) => {
                count(&names, values.len())?;
                for (name, value) in names.into_iter().zip(values) {
                    if let Some(value) = value {
                        self.b.name_result(value, name)?;
                        self.b.memory.define(name, value, false)?;
                    }
                }
            }
            Outcome::View { of, part, value } => {
                count(&names, 1)?;
                for name in names {
                    self.b.name_result(value, name)?;
                    self.b.memory.view(name, of, part, Some(value))?;
                }
            }
            Outcome::Views { of, values } => {
                count(&names, values.len())?;
                for (name, value) in names.into_iter().zip(values) {
                    self.b.name_result(value, name)?;
                    self.b.memory.view(name, of, super::memory::Part::Other, Some(value))?;
                }
            }
        }
        Ok(())
    }

    fn foreign(&mut self, node: &'p Node, reason: String) -> Result<()> {
        if ops::mutates(&node.target) {
            let found = format!("`{}`: {reason}", node.target);
            return Err(self.b.memory.advised(FormatError::mismatch("an in-place op that is a value", found)));
        }
        let mut inputs = Vec::new();
        let mut attributes = Vec::new();
        for a in &node.inputs {
            match &a.arg {
                Argument::Tensor(_) | Argument::Tensors(_) | Argument::OptionalTensors(_) => {
                    for t in tensors_of(&a.arg) {
                        inputs.push(Some(self.as_torch_has_it(t)?));
                    }
                    attributes.push((a.name.clone(), format!("{} operands", tensors_of(&a.arg).len())));
                }
                Argument::Graph(_) => attributes.push((a.name.clone(), "a part of the program".into())),
                other => attributes.push((a.name.clone(), format!("{other:?}"))),
            }
        }
        let operands: Vec<&str> = node.inputs.iter().flat_map(|a| tensors_of(&a.arg)).collect();
        let names = results(node);
        let id = self.b.add(foreign_op(&node.target, attributes, names.len(), reason), &inputs)?;
        let values = self.b.graph.node(id).outputs.clone();
        for (name, value) in names.into_iter().zip(values) {
            // Types that the IR lacks stay unknown.
            if self.b.declared(name).is_ok() {
                self.b.name_result(value, name)?;
            } else {
                self.b.graph.rename_value(value, name);
            }
            let of: Vec<&str> = operands.iter().copied().filter(|t| ops::may_share(&self.b, node, t, name)).collect();
            self.b.memory.perhaps(name, value, &of)?;
        }
        self.effects(node, &operands);
        Ok(())
    }

    /// What an op that is not known may do to its operands: the archive does not say. One without a result that is a
    /// tensor is there for that; of others it is not assumed, and the report says so.
    fn effects(&mut self, node: &'p Node, operands: &[&str]) {
        if ops::is_torch_s(&node.target) || operands.is_empty() {
            return;
        }
        if results(node).is_empty() {
            self.b.memory.may_change(operands, node.label());
            return;
        }
        let target = &node.target;
        let note = format!("`{target}` is not known: it is taken to change none of the tensors that it is given");
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A tensor for an op that is not known: where a complex one is its parts here, it is made of them.
    fn as_torch_has_it(&mut self, name: &str) -> Result<ValueId> {
        const MAKES: &str = "torch.ops.aten.view_as_complex.default";
        let value = self.b.memory.read(name)?;
        if !self.b.is_complex(name) || self.b.ty(value).dtype.is_none() {
            return Ok(value);
        }
        let attributes = vec![("self".to_owned(), "1 operands".to_owned())];
        let op = foreign_op(MAKES, attributes, 1, "complex numbers, which the IR lacks".into());
        let made = self.b.emit(op, &[Some(value)])?;
        made.first().copied().ok_or_else(|| FormatError::invalid("a node without results"))
    }

    fn outputs(&mut self) -> Result<()> {
        let mut taken = HashSet::new();
        let module = &self.program.graph_module;
        let program = module.module_call_graph.iter().find(|m| m.fqn.is_empty()).and_then(|m| m.signature.as_ref());
        let specs = &module.signature.output_specs;
        let returned = specs.iter().filter(|spec| matches!(spec, OutputSpec::User(_))).count();
        let names = program.map(|s| returned::names(&s.out_spec, returned)).unwrap_or_default();
        let mut names = names.into_iter();
        for spec in specs {
            let own = if matches!(spec, OutputSpec::User(_)) { names.next().flatten() } else { None };
            let (arg, name) = match spec {
                OutputSpec::User(Argument::Tensor(n)) => (n.as_str(), own.filter(|own| own != n)),
                OutputSpec::User(
                    Argument::None | Argument::Int(_) | Argument::Float(_) | Argument::Bool(_) | Argument::Text(_),
                ) => {
                    self.notes.push("a result that is no tensor is left out".into());
                    continue;
                }
                OutputSpec::Mutation { kind, arg, name } => {
                    self.notes
                        .push(format!("`{name}` changes as the program runs ({kind}): its new contents are a result"));
                    (arg.as_str(), Some(format!("{name}.new")))
                }
                OutputSpec::User(other) => {
                    return Err(FormatError::mismatch("results that are tensors", other.described())
                        .hint("return tensors: a size can be read off the shape of one"));
                }
                OutputSpec::Other(kind) => {
                    return Err(FormatError::mismatch("a program for inference", format!("a result of kind `{kind}`")));
                }
            };
            // Other than its tensor's, a name must be nobody's.
            let name = name.map_or_else(|| arg.to_owned(), |name| self.b.fresh_name(&name));
            let at = |e: FormatError| e.at_port(format!("graph output `{name}`"));
            let value = self.b.memory.read(arg).map_err(at)?;
            let mut title = name.clone();
            let mut n = 1;
            while !taken.insert(title.clone()) {
                title = format!("{name}_{n}");
                n += 1;
            }
            self.b.graph.add_output(title, value);
            let declared = self.b.declared(arg).map_err(at)?;
            if let Some(last) = self.b.graph.declared_mut().next_back() {
                *last = declared;
            }
        }
        Ok(())
    }

    fn finish(self) -> Graph {
        let Self { b, program, weights, parameters: mut all, mut notes, .. } = self;
        let longer = weights.longer();
        if let Some((record, more)) = longer.first() {
            let n = longer.len();
            notes.push(format!("{n} records hold more than their tensors take: `{record}`, the first, {more} bytes"));
        }
        if b.version_assumed {
            notes.push(UNVERSIONED.into());
        }
        let mut graph = b.graph;
        let dead = graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Foreign(_))).map(|(id, _)| id).collect::<Vec<_>>();
        graph.remove_dead(dead);
        graph.remove_unused_consts(&std::collections::BTreeSet::new());
        graph.info.notes = notes;
        let mut say = |key: &str, value: String| {
            if !value.is_empty() {
                graph.info.metadata.push((key.into(), value));
            }
        };
        say(VERSION, program.torch_version.clone());
        say(GUARDS, program.guards_code.join("; "));
        let constraints = program.range_constraints.iter();
        ranges::record(
            &mut graph,
            constraints.map(|(s, r)| Range { symbol: s.clone(), min: r.min_val, max: r.max_val }),
        );
        if !all.is_empty() {
            let there: HashSet<&str> = graph.values().map(|(_, v)| v.name.as_str()).collect();
            for p in &mut all {
                p.unread = !there.contains(p.value());
            }
            parameters::record(&mut graph, &all);
            parameters::note_without_data(&mut graph);
        }
        graph
    }
}

fn at_input(e: FormatError, name: &str) -> FormatError {
    e.at_port(format!("input `{name}`"))
}

fn count(names: &[&str], found: usize) -> Result<()> {
    if names.len() == found {
        return Ok(());
    }
    Err(FormatError::mismatch(format!("{found} results"), names.len()))
}

/// Where nothing can be foreign.
fn bad(r: Reject) -> FormatError {
    match r {
        Reject::Bad(e) => e,
        Reject::Foreign(why) => FormatError::invalid(why),
    }
}

/// Checks of the program's own, which have no value: what they check holds by the types that the file has, or the
/// caller's inputs are none that the program is for.
fn is_assertion(target: &str) -> bool {
    const ASSERTIONS: [&str; 9] = [
        "_assert_tensor_metadata.default",
        "_assert_scalar.default",
        "_assert_async.default",
        "_assert_async.msg",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
        "_functional_assert_scalar.default",
        "_functional_sym_constrain_range.default",
        "_functional_sym_constrain_range_for_size.default",
    ];
    target.strip_prefix("torch.ops.aten.").is_some_and(|t| ASSERTIONS.contains(&t)) || target.ends_with("_guards_fn")
}

/// A call that stays as it is, with its arguments by name.
fn foreign_op(target: &str, attributes: Vec<(String, String)>, outputs: usize, reason: String) -> Op {
    let (domain, op_type) = split_target(target);
    let attribute = |(name, v): (String, String)| ForeignAttr { name, payload: v.into_bytes().into() };
    Op::Foreign(Arc::new(ForeignOp {
        domain: domain.to_owned(),
        op_type: op_type.to_owned(),
        overload: String::new(),
        encoding: "torch.export".into(),
        attributes: attributes.into_iter().map(attribute).collect(),
        captures: 0,
        outputs,
        reason,
    }))
}

/// `torch.ops.aten.index.Tensor` is the op `index.Tensor` of `aten`.
fn split_target(target: &str) -> (&str, &str) {
    target.strip_prefix("torch.ops.").unwrap_or(target).split_once('.').unwrap_or(("", target))
}

fn text(ty: &Type) -> String {
    let dtype = ty.dtype.map_or_else(String::new, |d| d.to_string());
    format!("{dtype}{}", ty.shape.as_ref().map_or_else(String::new, ToString::to_string))
}
