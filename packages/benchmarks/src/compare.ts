/**
 * Compares this library with what a user would pick instead, and writes what it found into `docs/benchmarks.md`. See `usage`.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { readFileSync, writeFileSync } from "node:fs"
import { cpus, loadavg } from "node:os"
import { parseArgs } from "node:util"
import * as Cost from "./Cost.ts"
import * as Outage from "./Outage.ts"
import * as Report from "./Report.ts"
import * as Survival from "./Survival.ts"
import * as Systems from "./Systems.ts"

const usage = `Usage: npm run bench:peers -- [--quick] [--json] [--write] [--only <part>]...

  --quick        an outage of 12 seconds within 24, and fewer rounds
  --json         one JSON object per line and nothing else on stdout
  --write        put the tables and pictures into docs/benchmarks.md
  --only <part>  only survival, outage, cost or bundle; may be repeated

The peers are installed into packages/benchmarks/peers on first use.`

const parts = ["survival", "outage", "cost", "bundle"] as const
type Part = (typeof parts)[number]

interface Measured {
  readonly rows: ReadonlyArray<object>
  readonly text: string
  readonly picture: string | undefined
}

const measure: Record<Part, (quick: boolean) => Effect.Effect<Measured, Error, Scope.Scope>> = {
  survival: () =>
    Effect.gen(function* () {
      const running = yield* started(Systems.systems)
      const cells = yield* Survival.table(running, { concurrency: 3, progress: (name) => Console.error(`  ${name}`) })
      const crashes = running.flatMap(({ system, unhandled }) =>
        unhandled().map((message) => `${system.name}: ${message}`)
      )
      if (crashes.length > 0) yield* Console.error(`Errors that nobody handled:\n${crashes.join("\n")}`)
      return { rows: cells, text: Report.survival(cells), picture: Report.survivalPicture(cells) }
    }),
  outage: (quick: boolean) =>
    Effect.gen(function* () {
      // Three at a time, and never neighbours: what waits for a dead primary with thousands of timers takes time from the others.
      const mixed = Systems.underLoad.toSorted(
        (one, other) => (Systems.underLoad.indexOf(one) % 3) - (Systems.underLoad.indexOf(other) % 3)
      )
      const runs = yield* Effect.forEach(
        mixed,
        (system) =>
          Effect.scoped(Effect.flatMap(Systems.start(system), (running) => Outage.run(running, quick ? 24 : 120))).pipe(
            Effect.tap(() => Console.error(`  ${system.name}`)),
            Effect.tapError((error) => Console.error(`  ${system.name}: ${error.message}`)),
            Effect.option
          ),
        { concurrency: 3 }
      )
      const rows = Systems.underLoad.flatMap(({ name }) =>
        runs.flatMap((run) => (run._tag === "Some" && run.value.system === name ? [run.value] : []))
      )
      return { rows, text: Report.outage(rows), picture: Report.outagePicture(rows) }
    }),
  cost: (quick: boolean) =>
    Effect.gen(function* () {
      const wired = yield* Cost.table(
        yield* started(Systems.wired, "canned"),
        quick
          ? { warmUp: 2000, rounds: 5, calls: 200, streams: 4, remembered: 10_000 }
          : { warmUp: 5000, rounds: 21, calls: 500, streams: 10, remembered: 100_000 }
      )
      const alone = yield* Cost.table(
        yield* started(Systems.alone, "canned"),
        quick
          ? { warmUp: 50_000, rounds: 5, calls: 2000, streams: 1, remembered: 10_000 }
          : { warmUp: 50_000, rounds: 41, calls: 5000, streams: 1, remembered: 100_000 }
      )
      const rows = [
        ...wired.map((cost) => ({ ...cost, over: "canned fetch" })),
        ...alone.map((cost) => ({ ...cost, over: "a promise" }))
      ]
      return { rows, text: Report.cost(wired, alone), picture: undefined }
    }),
  bundle: (quick: boolean) =>
    Effect.gen(function* () {
      const rows = yield* Effect.forEach(Systems.wired, (system) => Cost.bundle(system, quick ? 3 : 11))
      return { rows, text: Report.bundle(rows), picture: undefined }
    })
}

/** Starts all systems; one that cannot be started is reported, and missing from the table. */
const started = (systems: ReadonlyArray<Systems.System>, transport?: "canned") =>
  Effect.map(
    Effect.forEach(
      systems,
      (system) =>
        Systems.start(system, transport).pipe(
          Effect.tapError((error) => Console.error(`${system.name} cannot be started: ${error.message}`)),
          Effect.option
        ),
      { concurrency: 2 }
    ),
    (running) => running.flatMap((one) => (one._tag === "Some" ? [one.value] : []))
  )

const program = Effect.gen(function* () {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      write: { type: "boolean", default: false },
      only: { type: "string", multiple: true, default: [] },
      help: { type: "boolean", default: false }
    }
  })
  if (values.help) return yield* Console.log(usage)
  const failed = yield* Systems.install
  if (failed !== undefined) yield* Console.error(`The peers could not be installed: ${failed}`)
  for (const part of parts) {
    if (values.only.length > 0 && !values.only.includes(part)) continue
    yield* Console.error(part)
    const before = loadavg()[0] ?? 0
    const { picture, rows, text } = yield* Effect.scoped(measure[part](values.quick))
    const machine = `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC, ${cpus().length} cores, Node ${process.version}, load average ${before.toFixed(1)} before and ${(loadavg()[0] ?? 0).toFixed(1)} after`
    if (values.json) {
      for (const row of rows) yield* Console.log(JSON.stringify({ part, ...row }))
    } else {
      yield* Console.log(`${text}\n\n${machine}`)
    }
    if (values.write) {
      replaceSection(part, `${text}\n\nMeasured ${machine}.`)
      if (picture !== undefined) writeFileSync(new URL(`images/${part}.svg`, docs), picture)
    }
  }
  if (values.write) replaceSection("versions", Report.versions(Systems.systems))
})

const docs = new URL("../../../docs/", import.meta.url)

/** Replaces what is between the two comments of a part. */
const replaceSection = (part: string, text: string): void => {
  const file = new URL("benchmarks.md", docs)
  const page = readFileSync(file, "utf8")
  const [begin, end] = [`<!-- ${part} -->`, `<!-- /${part} -->`]
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/benchmarks.md has no place for ${part}`)
  writeFileSync(file, `${page.slice(0, from + begin.length)}\n\n${text}\n\n${page.slice(to)}`)
}

await Effect.runPromise(Effect.scoped(program))
