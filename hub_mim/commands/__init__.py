"""The verbs of `hub-mim`: one short function each, a thin layer over a public function."""
