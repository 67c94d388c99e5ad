import sys, numpy as np
a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
bad = 0
for k in a.files:
    if k not in b.files: continue
    x, y = a[k], b[k]
    same = np.array_equal(x, y)
    if not same:
        d = "" if x.dtype.kind == "U" else f"{np.abs(x - y).max() / np.abs(x).max():.1e}"
        print("DIFF", k, d)
        bad += "decode" not in k
print("training differs" if bad else "training bit-identical")
