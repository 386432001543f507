//! Scaled products: nodes of our domain whose function spells them.

use normfuse_formats::onnx::{
    DOMAIN,
    proto::{FunctionProto, ModelProto},
};
use normfuse_ir::{
    DType, Graph, Op, Tensor, Type,
    body::{
        bits_equal,
        hostile::{Rng, Row, rows},
    },
    eval,
    scaled::{ScalePer, ScaledMatMul},
    text,
};

use crate::build::*;

const N: usize = 7;
const K: usize = 20;
const M: usize = 3;

fn shape_of(per: ScalePer, rows: &[usize], columns: usize) -> Vec<usize> {
    let up = |n: usize, by: u64| n.div_ceil(by as usize);
    match per {
        ScalePer::Tensor => vec![],
        ScalePer::Row => [rows, &[1]].concat(),
        ScalePer::Block(r, c) => rows.iter().map(|n| up(*n, r)).chain([up(columns, c)]).collect(),
    }
}

fn product(op: ScaledMatMul, bias: Option<DType>) -> Graph {
    let mut g = Graph::new("g");
    let sizes = |shape: &[usize]| Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(shape));
    let of = |dtype: DType, shape: &[usize]| Type { dtype: Some(dtype), ..sizes(shape) };
    let mut ins = vec![
        g.add_input("a", of(DType::F8E4M3FN, &[2, M, K])),
        g.add_input("b", of(DType::F8E5M2, &[N, K])),
        g.add_input("sa", sizes(&shape_of(op.a, &[2, M], K))),
        g.add_input("sb", sizes(&shape_of(op.b, &[N], K))),
    ];
    ins.extend(bias.map(|d| g.add_input("c", of(d, &[N]))));
    let ins: Vec<_> = ins.into_iter().map(Some).collect();
    let id = g.add_node("product", Op::ScaledMatMul(op), &ins, ["y"]).unwrap();
    let y = g.node(id).outputs[0];
    *g.type_mut(y) = of(op.to, &[2, M, N]);
    g.add_output("y", y);
    g.info.opsets.insert(String::new(), 21);
    g
}

fn inputs(g: &Graph) -> Vec<Tensor> {
    let mut rng = Rng::new(5);
    let kinds = [Row::Bell, Row::SignedZeros, Row::Bell];
    let mut made = |id: &normfuse_ir::ValueId| {
        let ty = &g.value(*id).ty;
        let shape: Vec<usize> = ty.shape.as_ref().unwrap().0.iter().map(|d| d.as_const().unwrap() as usize).collect();
        eval::cast(&rows(DType::F32, &shape, &kinds, &mut rng).unwrap(), ty.dtype.unwrap(), true).unwrap()
    };
    g.inputs().iter().map(&mut made).collect()
}

fn all() -> Vec<(ScaledMatMul, Option<DType>)> {
    use ScalePer::{Block, Row, Tensor};
    let mut all = Vec::new();
    for (a, b) in [
        (Tensor, Tensor),
        (Tensor, Row),
        (Row, Row),
        (Block(1, 8), Block(1, 8)),
        // Rows that are cut off, and more of them than there are.
        (Block(1, 8), Block(2, 8)),
        (Block(1, 8), Block(9, 8)),
        (Block(1, 8), Row),
        (Block(1, 8), Tensor),
        (Row, Block(1, 8)),
        (Tensor, Block(7, 8)),
        (Row, Block(2, 20)),
        (Block(1, 32), Block(32, 32)),
    ] {
        for (to, bias) in [(DType::F32, None), (DType::BF16, Some(DType::BF16)), (DType::F16, Some(DType::F32))] {
            all.push((ScaledMatMul { a, b, to }, bias));
        }
    }
    all
}

/// The model with its functions in a domain that means nothing to us, so that they are inlined.
fn of_another_domain(mut m: ModelProto) -> ModelProto {
    m.functions.iter_mut().for_each(|f| f.domain = Some("other".into()));
    let graph = m.graph.as_mut().unwrap();
    for node in graph.node.iter_mut().filter(|n| n.domain() == DOMAIN) {
        node.domain = Some("other".into());
    }
    m.opset_import.push(opset("other", 1));
    m
}

#[test]
fn read_back_it_is_the_op_again() {
    for (op, bias) in all() {
        let (g, disk) = (product(op, bias), Disk::new());
        let m = disk.write(&g).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        assert_eq!(m.functions.len(), 1);
        assert!(m.functions[0].name().starts_with("ScaledMatMul_"));
        let again = disk.read(&m).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        assert_eq!(only_node(&again).op, Op::ScaledMatMul(op));
        assert_eq!(disk.write(&again).unwrap(), m, "written again it is the same file");
        assert_eq!(text::print(&disk.read(&m).unwrap()), text::print(&again));
    }
}

#[test]
fn the_function_computes_the_same_bits() {
    for (op, bias) in all() {
        let (g, disk) = (product(op, bias), Disk::new());
        let spelled = disk.read(&of_another_domain(disk.write(&g).unwrap())).unwrap();
        assert!(spelled.nodes().all(|(_, n)| !matches!(n.op, Op::ScaledMatMul(_) | Op::Foreign(_))), "{op:?}");
        let given = inputs(&g);
        let (want, found) = (eval::run(&g, &given).unwrap(), eval::run(&spelled, &given).unwrap());
        assert_eq!((want[0].dtype(), want[0].shape()), (found[0].dtype(), found[0].shape()), "{op:?}");
        assert_eq!(bits_equal(&found[0], &want[0]), None, "{op:?}");
    }
}

/// A product, and another one of the same operands.
fn two(op: ScaledMatMul, other: ScaledMatMul) -> usize {
    let mut g = product(op, None);
    let ins: Vec<_> = g.inputs().iter().copied().map(Some).collect();
    let id = g.add_node("again", Op::ScaledMatMul(other), &ins, ["z"]).unwrap();
    let z = g.node(id).outputs[0];
    *g.type_mut(z) = Type::tensor(other.to, normfuse_ir::Shape::from_concrete(&[2, M, N]));
    g.add_output("z", z);
    Disk::new().write(&g).unwrap().functions.len()
}

#[test]
fn one_function_for_all_products_that_it_spells() {
    let op = ScaledMatMul { a: ScalePer::Row, b: ScalePer::Row, to: DType::BF16 };
    assert_eq!(two(op, op), 1);
    assert_eq!(two(op, ScaledMatMul { to: DType::F32, ..op }), 2);
}

fn changed(change: impl FnOnce(&mut ModelProto)) -> (Graph, ModelProto) {
    let op = ScaledMatMul { a: ScalePer::Block(1, 8), b: ScalePer::Block(2, 8), to: DType::F32 };
    let g = product(op, None);
    let mut m = Disk::new().write(&g).unwrap();
    change(&mut m);
    (g, m)
}

/// A function that another tool has changed means what it spells, and so does one that is called otherwise than we do.
#[test]
fn a_function_that_is_not_ours_is_inlined() {
    let swap = |f: &mut FunctionProto| {
        let at = f.node.iter().rposition(|n| n.op_type() == "Mul").unwrap();
        f.node[at].op_type = Some("Add".into());
    };
    let (source, m) = changed(|m| swap(&mut m.functions[0]));
    let inlined = read(&m).unwrap();
    assert!(inlined.nodes().all(|(_, n)| !matches!(n.op, Op::ScaledMatMul(_) | Op::Foreign(_))));
    let given = inputs(&source);
    let (want, found) = (eval::run(&source, &given).unwrap(), eval::run(&inlined, &given).unwrap());
    assert!(bits_equal(&want[0], &found[0]).is_some());
    let product = |text: &'static str| {
        move |m: &mut ModelProto| m.graph.as_mut().unwrap().node[0].attribute[0] = string("product", text)
    };
    for text in ["{}", r#"{"a":"row","b":"row","to":"f32"}"#] {
        let inlined = read(&changed(product(text)).1).unwrap();
        assert_eq!(bits_equal(&eval::run(&inlined, &given).unwrap()[0], &want[0]), None, "{text}");
        assert!(inlined.node_count() > 5);
    }
    let sizes = |m: &mut ModelProto| m.graph.as_mut().unwrap().node[0].attribute[1] = ints("sizes", &[7, 1 << 62]);
    assert!(read(&changed(sizes).1).unwrap().node_count() > 5);
}

#[test]
fn what_is_no_product_is_refused() {
    let e = refused(&changed(|m| m.functions.clear()).1);
    assert!(e.contains("node `product`") && e.contains("a local function `normfuse.ScaledMatMul_"), "{e}");
    // A function that calls itself.
    let itself = |m: &mut ModelProto| {
        let f = &mut m.functions[0];
        let name = f.name().to_owned();
        f.node.push(in_domain(DOMAIN, node(&name, &["a", "b", "scale_a", "scale_b"], &["deep"])));
    };
    let e = refused(&changed(itself).1);
    assert!(e.contains("calls itself"), "{e}");
}

/// The function adds the groups of the columns that the node says; the op would add those of its operand.
#[test]
fn sizes_are_those_of_the_operand() {
    use normfuse_formats::onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
    let (_, m) = changed(|m| {
        for input in &mut m.graph.as_mut().unwrap().input[..2] {
            let Some(type_proto::Value::TensorType(t)) = &mut input.r#type.as_mut().unwrap().value else { panic!() };
            // As many groups, the last one of which is whole.
            t.shape.as_mut().unwrap().dim.last_mut().unwrap().value = Some(Value::DimValue(24));
        }
    });
    let e = refused(&m);
    assert!(e.contains("expected a right operand of 20 columns, as `sizes` says") && e.contains("24"), "{e}");
}

#[test]
fn sizes_that_decide_the_function_must_be_known() {
    let op = ScaledMatMul { a: ScalePer::Block(1, 8), b: ScalePer::Block(2, 8), to: DType::F32 };
    let mut g = product(op, None);
    let b = g.inputs()[1];
    g.type_mut(b).shape = None;
    let e = Disk::new().write(&g).unwrap_err().to_string();
    assert!(e.contains("ONNX has no op that is exactly a `ScaledMatMul` of blocks whose sizes are not known"), "{e}");
    // Whole rows may have any.
    let mut g = product(ScaledMatMul { a: ScalePer::Row, b: ScalePer::Row, ..op }, None);
    g.type_mut(b).shape = None;
    assert!(Disk::new().write(&g).is_ok());
}
