import { execFile } from "node:child_process"
import { assert, describe, it } from "@effect/vitest"
import { Simulation } from "@llm-resilience/testing"
import { happy } from "../simulation/happy.ts"

const root = new URL("../..", import.meta.url).pathname

const run = (program: string, args: ReadonlyArray<string>) =>
  new Promise<{ readonly code: unknown; readonly stdout: string; readonly stderr: string }>((resolve) => {
    execFile(
      process.execPath,
      ["-C", "@llm-resilience/source", program, ...args],
      { cwd: root },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : error.code, stdout, stderr })
    )
  })

const refuses = (program: string, mistakes: ReadonlyArray<readonly [args: ReadonlyArray<string>, why: string]>) =>
  Promise.all(
    mistakes.map(async ([args, why]) =>
      assert.deepStrictEqual(await run(program, args), { code: 2, stdout: "", stderr: `${why}\n` }, args.join(" "))
    )
  )

describe("npm run simulate", () => {
  const simulate = "test/simulation/simulate.ts"

  it("refuses what it cannot run in one line", () =>
    refuses(simulate, [
      [["--seed", "abc"], 'simulate: --seed must be a whole number >= 0, got "abc"'],
      [["--from", "x"], 'simulate: --from must be a whole number >= 0, got "x"'],
      [["--seeds", "0"], 'simulate: --seeds must be a whole number >= 1, got "0"'],
      [["--seeds", ""], 'simulate: --seeds must be a whole number >= 1, got ""'],
      [["--seed", "1", "--seeds", "5"], "simulate: --seed is one seed; it goes with neither --seeds nor --from"],
      [["--sedes", "5"], "simulate: Unknown option '--sedes'; known are --seed, --seeds, --from, --happy"],
      [["5"], "simulate: Unexpected argument '5'; known are --seed, --seeds, --from, --happy"]
    ]))

  it("says every hundred seeds from where to go on", async () => {
    const { code, stdout } = await run(simulate, ["--seeds", "101", "--from", "7"])

    assert.strictEqual(code, 0)
    assert.include(stdout, "nothing yet in 100 seeds; the next is --from 107\n101 seeds from 7, ")
  })

  it("lets nothing fail in happy seeds, whatever they draw", () => {
    for (let seed = 0; seed < 20; seed++) {
      const { counts, requests } = Simulation.run(happy(Simulation.plan(seed)))
      assert.deepStrictEqual([counts.failed, counts.answered, counts.calls], [0, requests, requests], `seed ${seed}`)
    }
  })
})

describe("npm run forecast", () => {
  const known = "--per-second, --days, --seed, --only, --svg"
  const scenarios = "primary alone, with a secondary, and a local model, timeout halved, with hedging"

  it("refuses what it cannot run in one line", () =>
    refuses("docs/examples/forecast.ts", [
      [["--seed", "x"], 'forecast: --seed must be a number, got "x"'],
      [["--days", "abc"], 'forecast: --days must be a number, got "abc"'],
      [["--days", ""], 'forecast: --days must be a number, got ""'],
      [["--days=-1"], 'Forecast.compare: "primary alone": days must be in (0, 3660], got -1'],
      [["--only", "nosuch"], `forecast: no scenario has "nosuch" in its name; there are ${scenarios}`],
      [["--day", "3"], `forecast: Unknown option '--day'; known are ${known}`]
    ]))

  it("forecasts what is left of its scenarios", async () => {
    const { code, stdout } = await run("docs/examples/forecast.ts", ["--only", "alone", "--days", "0.1"])

    assert.strictEqual(code, 0)
    assert.include(stdout, "| primary alone |")
    assert.notInclude(stdout, "hedging")
  })
})
