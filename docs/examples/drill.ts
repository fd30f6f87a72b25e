/**
 * Game days from the command line.
 *
 *   npm run drill                              all six, in virtual time
 *   npm run drill -- primary-outage            one of them, with its report
 *   npm run drill -- primary-outage --live     the same in real time, with what happens as it happens
 *   npm run drill -- my-drill.yaml             one of your own
 *   npm run drill -- primary-outage --json     the report as JSON, or with --svg file.svg as a picture too
 */
import { parseArgs } from "node:util"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Drill, DrillReport, Drills } from "@llm-resilience/testing"
import { Console, Effect, FileSystem } from "effect"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { live: { type: "boolean" }, json: { type: "boolean" }, svg: { type: "string" } }
})

const find = (name: string) =>
  Effect.gen(function* () {
    const known = Drills.all[name]
    if (known !== undefined) return known
    if (!/\.ya?ml$/.test(name)) {
      const names = Object.keys(Drills.all).join(", ")
      return yield* new Drill.DrillInvalid({
        message: `There is no drill "${name}"; there are ${names}, and YAML files`
      })
    }
    const fs = yield* FileSystem.FileSystem
    return yield* Drill.parse(yield* fs.readFileString(name))
  })

const live = (drill: Drill.Drill) =>
  Effect.flatMap(Drill.rehearsal(), (target) =>
    Drill.run(drill, target, {
      // oxlint-disable-next-line no-console -- progress of a program
      onProgress: ({ at, text }) => console.error(`${(at / 1000).toFixed(1).padStart(7)} s  ${text}`)
    })
  )

const program = Effect.gen(function* () {
  const names = positionals.length === 0 ? Object.keys(Drills.all) : positionals
  let passed = true
  for (const name of names) {
    const drill = yield* find(name)
    const report = values.live === true ? yield* Effect.scoped(live(drill)) : Drill.rehearse(drill)
    passed &&= report.passed
    if (values.svg !== undefined) {
      const fs = yield* FileSystem.FileSystem
      yield* fs.writeFileString(values.svg, DrillReport.toSvg(report))
    }
    if (values.json === true) yield* Console.log(DrillReport.toJson(report))
    else if (positionals.length > 0) yield* Console.log(DrillReport.toMarkdown(report))
    else {
      const { answered, requests } = report.figures
      const verdict = report.passed ? "passed" : "FAILED"
      yield* Console.log(`${name.padEnd(20)} ${verdict}  ${answered} of ${requests} requests answered`)
    }
  }
  if (!passed) process.exitCode = 1
}).pipe(
  Effect.catchTag("DrillInvalid", ({ message }) =>
    Effect.andThen(
      Console.error(message),
      Effect.sync(() => {
        process.exitCode = 1
      })
    )
  )
)

NodeRuntime.runMain(Effect.provide(program, NodeServices.layer))
