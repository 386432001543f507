# DynamicQuantizeLinear behind a cast is two ops, with a computed zero point.
graph "input_dynamic_linear"
opset "" 20
input %y: bf16[batch, seq, 256]
%y32 = cast(%y) {to=f32}
%q, %s, %z = dynamic_quantize_linear(%y32)
output %q
output %s
output %z
