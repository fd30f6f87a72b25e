import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"

const root = Path.resolve(import.meta.dirname, "../..")
const scratch = Fs.mkdtempSync(Path.join(Os.tmpdir(), "drill-"))

afterAll(() => Fs.rmSync(scratch, { recursive: true }))

const drill = (...args: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    ["-C", "@llm-resilience/source", Path.join(root, "docs/examples/drill.ts"), ...args],
    { cwd: scratch, encoding: "utf8" }
  )
  return { status, stdout, said: stderr.trim().split("\n") }
}

const file = (name: string, steps: string, expectations: string): string => {
  const yaml = `
name: ${name}
about: y
traffic: { every: 1s, for: 20s }
steps: [${steps}]
expectations: [${expectations}]`
  Fs.writeFileSync(Path.join(scratch, `${name}.yaml`), yaml)
  return `${name}.yaml`
}

describe("npm run drill", () => {
  it("says in one line what it does not know, and ends with 2", () => {
    for (const [argument, line] of [
      ["nosuch.yaml", /^There is no file nosuch\.yaml$/],
      ["constructor", /^There is no drill "constructor"; there are primary-outage, /],
      ["--jsn", /^Unknown option '--jsn'; there are --live, --json and --svg$/]
    ] as const) {
      const { said, status, stdout } = drill(argument)

      assert.strictEqual(said.length, 1)
      assert.match(said[0] ?? "", line)
      assert.deepStrictEqual([status, stdout], [2, ""])
    }
    assert.match(drill("--svg", "all.svg").said.join(), /^--svg draws one drill, and here are 6; name one$/)
  })

  it("names the providers that there are, before anything runs", () => {
    const { said, status, stdout } = drill(
      file("wrong", "{ at: 5s, provider: primry, fault: { hang: true } }", "{ answered: 0.5 }")
    )

    assert.deepStrictEqual(said, [
      "The drill cannot be run:",
      '  steps[0].provider: got "primry", which is unknown, expected one of primary, secondary (did you mean "primary"?)'
    ])
    assert.deepStrictEqual([status, stdout], [2, ""])
  })

  it("gives several reports as one JSON, and ends with 1 when a drill failed", () => {
    const failing = file("failing", "", "{ notice: Cached }")
    const both = drill(failing, "flapping", "--json")
    const one = drill(failing, "--json")

    assert.deepStrictEqual(
      JSON.parse(both.stdout).map(({ name, passed }: { name: string; passed: boolean }) => [name, passed]),
      [
        ["failing", false],
        ["flapping", true]
      ]
    )
    assert.strictEqual(JSON.parse(one.stdout).name, "failing")
    assert.deepStrictEqual([both.status, one.status, drill("flapping").status], [1, 1, 0])
  })
})
