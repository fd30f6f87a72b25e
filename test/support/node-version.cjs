// Runs first, on any Node and before anything is imported, so that one which is too old gets a sentence instead of a stack.
var wanted = require("../../package.json").engines.node.replace(/^>=/, "")
var has = process.versions.node.split(".").map(Number)
var needs = wanted.split(".").map(Number)
var older = has[0] !== needs[0] ? has[0] < needs[0] : has[1] !== needs[1] ? has[1] < needs[1] : has[2] < needs[2]

if (older) {
  console.error("llm-resilience needs Node " + wanted + " or newer, and this is " + process.versions.node + ".")
  process.exit(1)
}
