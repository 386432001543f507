# The weight turned around before a product that turns it back, and nothing added.
graph "gemm_turned_twice"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[64, 6]
input %ws: f32[1, 6]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = gemm(%x, %wt) {alpha=1.0, beta=0.5, trans_a=false, trans_b=true}
output %y as "y"
