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
  input %x: bf16[d0, d1, 32]
  input %residual: bf16[d0, d1, 32]
  input %weight0: bf16[32]
  %normfuse/v_1: bf16[d0, d1, 32] = add(%x, %residual)
  %normfuse/v_2: f32[d0, d1, 32] = cast(%normfuse/v_1) {to=f32, saturate=true}
  const %normfuse/const_3: f32[] = 2.0
  %normfuse/v_4: f32[d0, d1, 32] = pow(%normfuse/v_2, %normfuse/const_3)
  %normfuse/v_5: f32[d0, d1, 1] = reduce_mean(%normfuse/v_4) {axes=[-1], keepdims=true}
  const %normfuse/const_6: f32[] = 1e-6
  %normfuse/v_7: f32[d0, d1, 1] = add(%normfuse/v_5, %normfuse/const_6)
  %normfuse/v_8: f32[d0, d1, 1] = sqrt(%normfuse/v_7)
  %normfuse/v_9: f32[d0, d1, 1] = reciprocal(%normfuse/v_8)
  %normfuse/v_10: f32[d0, d1, 32] = mul(%normfuse/v_2, %normfuse/v_9)
  %normfuse/v_11: bf16[d0, d1, 32] = cast(%normfuse/v_10) {to=bf16, saturate=true}
  %normfuse/v_12: bf16[d0, d1, 32] = mul(%weight0, %normfuse/v_11)
  output %normfuse/v_12 as "y0"
end
graph "siblings_depend"
opset "" 20
input %h: bf16[batch, seq, 64]
input %wq: bf16[64, 32]
input %wk: bf16[64, 32]
input %wz: bf16[32, 32]
const %wa: bf16[32] = [1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25]
const %wb: bf16[32] = [0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75]
const %c448: f32[] = 448.0
%a0: bf16[batch, seq, 32] = matmul(%h, %wq)
%b0: bf16[batch, seq, 32] = matmul(%h, %wk)
%a: bf16[batch, seq, 32] = fused_norm(%a0, %wa) {prologue=none, source=shared, emit_sum=false, siblings=[{width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/a_ms body &body from {replaced=[a_x32, a_sq, a_ms, a_ve, a_rt, a_r, a_n, a_nc, a], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", weight]}
%g: bf16[batch, seq, 32] = matmul(%a, %wz)
%b: bf16[batch, seq, 32] = fused_norm(%b0, %g, %wb) {prologue={residual_add={dtype=bf16}}, source=shared, emit_sum=false, siblings=[{width=32, input=bf16, compute=f32, eps=1e-6, root=reciprocal_sqrt, normed=bf16, weight={dtype=bf16, plus_one=false}, output=bf16, emit_normed=true, epilogues=[]}]} @fused_norm/b_ms body &body~2 from {replaced=[b1, b_x32, b_sq, b_ms, b_ve, b_rt, b_r, b_n, b_nc, b], rules=["mean-of-squares", "norm-by-reciprocal-of-root", "plus-eps", "pow-two-is-square", residual, weight]}
output %a
output %b
