body &body
  opset "" 20
  input %x: bf16[d0, d1, 32]
  input %weight0: bf16[32]
  %normfuse/v_1: f32[d0, d1, 32] = cast(%x) {to=f32, saturate=true}
  const %normfuse/const_2: f32[] = 2.0
  %normfuse/v_3: f32[d0, d1, 32] = pow(%normfuse/v_1, %normfuse/const_2)
  %normfuse/v_4: f32[d0, d1, 1] = reduce_mean(%normfuse/v_3) {axes=[-1], keepdims=true}
  const %normfuse/const_5: f32[] = 1e-6
  %normfuse/v_6: f32[d0, d1, 1] = add(%normfuse/v_4, %normfuse/const_5)
  %normfuse/v_7: f32[d0, d1, 1] = sqrt(%normfuse/v_6)
  %normfuse/v_8: f32[d0, d1, 1] = reciprocal(%normfuse/v_7)
  %normfuse/v_9: f32[d0, d1, 32] = mul(%normfuse/v_1, %normfuse/v_8)
  %normfuse/v_10: bf16[d0, d1, 32] = cast(%normfuse/v_9) {to=bf16, saturate=true}
  %normfuse/v_11: bf16[d0, d1, 32] = mul(%weight0, %normfuse/v_10)
  output %normfuse/v_11 as "y0"
end
body &body~2
  opset "" 20
  input %x0: bf16[d0, d1, 32]
  input %x1: bf16[d0, d1, 32]
  input %weight0: bf16[32]
  input %weight1: bf16[32]
  %normfuse/v_1: f32[d0, d1, 32] = cast(%x0) {to=f32, saturate=true}
  const %normfuse/const_2: f32[] = 2.0
  %normfuse/v_3: f32[d0, d1, 32] = pow(%normfuse/v_1, %normfuse/const_2)
  %normfuse/v_4: f32[d0, d1, 1] = reduce_mean(%normfuse/v_3) {axes=[-1], keepdims=true}
  const %normfuse/const_5: f32[] = 1e-6
  %normfuse/v_6: f32[d0, d1, 1] = add(%normfuse/v_4, %normfuse/const_5)
  %normfuse/v_7: f32[d0, d1, 1] = sqrt(%normfuse/v_6)
  %normfuse/v_8: f32[d0, d1, 1] = reciprocal(%normfuse/v_7)
  %normfuse/v_9: f32[d0, d1, 32] = mul(%normfuse/v_1, %normfuse/v_8)
  %normfuse/v_10: bf16[d0, d1, 32] = cast(%normfuse/v_9) {to=bf16, saturate=true}
  %normfuse/v_11: bf16[d0, d1, 32] = mul(%weight0, %normfuse/v_10)
  %normfuse/v_12: f32[d0, d1, 32] = cast(%x1) {to=f32, saturate=true}
  %normfuse/v_13: f32[d0, d1, 32] = pow(%normfuse/v_12, %normfuse/const_2)
  %normfuse/v_14: f32[d0, d1, 1] = reduce_mean(%normfuse/v_13) {axes=[-1], keepdims=true}
  %normfuse/v_15: f32[d0, d1, 1] = add(%normfuse/v_14, %normfuse/const_5)
  %normfuse/v_16: f32[d0, d1, 1] = sqrt(%normfuse/v_15)
  %normfuse/v_17: f32[d0, d1, 1] = reciprocal(%normfuse/v_16)
  %normfuse/v_18: f32[d0, d1, 32] = mul(%normfuse/v_12, %normfuse/v_17)
  %normfuse/v_19: bf16[d0, d1, 32] = cast(%normfuse/v_18) {to=bf16, saturate=true}
  %normfuse/v_20: bf16[d0, d1, 32] = mul(%weight1, %normfuse/v_19)
  output %normfuse/v_11 as "y0"
  output %normfuse/v_20 as "y1"
end
graph "siblings_cycle"
opset "" 20
input %h: bf16[batch, seq, 64]
input %g: bf16[batch, seq, 64]
input %w1: bf16[64, 32]
input %w2: bf16[64, 32]
input %w3: bf16[64, 32]
input %w4: bf16[64, 32]
const %wa: bf16[32] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
const %c448: f32[] = 448.0
%a0: bf16[batch, seq, 32] = matmul(%h, %w1)
%c0: bf16[batch, seq, 32] = matmul(%g, %w3)
%b0: bf16[batch, seq, 32] = matmul(%h, %w2)
%d0: bf16[batch, seq, 32] = matmul(%g, %w4)
%c: bf16[batch, seq, 32] = fused_norm(%c0, %wa) {prologue=none, source=shared, emit_sum=false, siblings=[{width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/c_ms body &body from {replaced=[c_x32, c_sq, c_ms, c_ve, c_rt, c_r, c_n, c_nc, c], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", weight]}
%wb: bf16[32] = reduce_max(%c) {axes=[0, 1], keepdims=false}
%a: bf16[batch, seq, 32], %b: bf16[batch, seq, 32] = fused_norm(%a0, %b0, %wa, %wb) {prologue=none, source=separate, emit_sum=false, siblings=[{width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}, {width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/a_ms body &body~2 from {replaced=[a_x32, a_sq, a_ms, a_ve, a_rt, a_r, a_n, a_nc, a, b_x32, b_sq, b_ms, b_ve, b_rt, b_r, b_n, b_nc, b], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", weight]}
%wd: bf16[32] = reduce_max(%a) {axes=[0, 1], keepdims=false}
%d: bf16[batch, seq, 32] = fused_norm(%d0, %wd) {prologue=none, source=shared, emit_sum=false, siblings=[{width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/d_ms body &body from {replaced=[d_x32, d_sq, d_ms, d_ve, d_rt, d_r, d_n, d_nc, d], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", weight]}
output %a
output %b
output %c
output %d
