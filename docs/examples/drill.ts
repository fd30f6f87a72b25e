/**
 * Game days from the command line.
 *
 *   npm run drill                              all six, in virtual time
 *   npm run drill -- primary-outage            one of them, with its report
 *   npm run drill -- primary-outage --live     the same in real time, with what happens as it happens
 *   npm run drill -- my-drill.yaml             one of your own
 *   npm run drill -- primary-outage --json     the report as JSON, an array when there are several
 *   npm run drill -- primary-outage --svg file.svg   as a picture too
 *
 * Exit code 1: a drill failed. Exit code 2: it could not be run.
 */
import { parseArgs } from "node:util"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Drill, DrillReport, Drills } from "@llm-resilience/testing"
import { Console, Effect, FileSystem } from "effect"

const unusable = (message: string) => new Drill.DrillInvalid({ message })
const sayWhy = (cause: unknown) => unusable(cause instanceof Error ? cause.message : String(cause))

const readArguments = Effect.try({
  try: () =>
    parseArgs({
      allowPositionals: true,
      options: { live: { type: "boolean" }, json: { type: "boolean" }, svg: { type: "string" } }
    }),
  catch: (cause) => unusable(`${sayWhy(cause).message.split(". ")[0]}; there are --live, --json and --svg`)
})

const find = (name: string) =>
  Effect.gen(function* () {
    const known = Object.hasOwn(Drills.all, name) ? Drills.all[name] : undefined
    if (known !== undefined) return known
    if (!/\.ya?ml$/.test(name)) {
      const names = Object.keys(Drills.all).join(", ")
      return yield* unusable(`There is no drill "${name}"; there are ${names}, and YAML files`)
    }
    const fs = yield* FileSystem.FileSystem
    const text = yield* Effect.mapError(fs.readFileString(name), ({ reason }) =>
      unusable(
        reason._tag === "NotFound" ? `There is no file ${name}` : `The file ${name} cannot be read: ${reason._tag}`
      )
    )
    return yield* Drill.parse(text)
  })

const live = (drill: Drill.Drill) =>
  Effect.flatMap(Drill.rehearsal(), (target) =>
    Drill.run(drill, target, {
      // oxlint-disable-next-line no-console -- progress of a program
      onProgress: ({ at, text }) => console.error(`${(at / 1000).toFixed(1).padStart(7)} s  ${text}`)
    })
  )

const rehearsed = (drill: Drill.Drill) => Effect.try({ try: () => Drill.rehearse(drill), catch: sayWhy })

const overview = (name: string, report: DrillReport.DrillReport): string => {
  const { figures, passed, verdicts } = report
  const missed = verdicts.filter(({ passed }) => !passed)
  return [
    `${name.padEnd(20)} ${passed ? "passed" : "FAILED"}  ${figures.answered} of ${figures.requests} requests answered`,
    ...missed.map(({ expectation, found }) => `  FAILED  ${expectation}: ${found}`),
    ...DrillReport.lostLines(report).map((line) => `  lost    ${line}`)
  ].join("\n")
}

const program = Effect.gen(function* () {
  const { positionals, values } = yield* readArguments
  const names = positionals.length === 0 ? Object.keys(Drills.all) : positionals
  if (values.svg !== undefined && names.length > 1) {
    return yield* unusable(`--svg draws one drill, and here are ${names.length}; name one`)
  }
  const drills = yield* Effect.forEach(names, (name) => Effect.map(find(name), (drill) => ({ name, drill })))
  const reports: Array<DrillReport.DrillReport> = []
  for (const { drill, name } of drills) {
    const report = values.live === true ? yield* Effect.scoped(live(drill)) : yield* rehearsed(drill)
    reports.push(report)
    if (values.svg !== undefined) {
      const fs = yield* FileSystem.FileSystem
      yield* Effect.mapError(fs.writeFileString(values.svg, DrillReport.toSvg(report)), sayWhy)
    }
    if (values.json === true) continue
    yield* Console.log(positionals.length > 0 ? DrillReport.toMarkdown(report) : overview(name, report))
  }
  if (values.json === true) {
    const [only, ...others] = reports.map(DrillReport.toJson)
    yield* Console.log(others.length === 0 ? only : `[${[only, ...others].join(",\n")}]`)
  }
  if (reports.some(({ passed }) => !passed)) process.exitCode = 1
}).pipe(
  Effect.catch(({ message }) =>
    Effect.andThen(
      Console.error(message),
      Effect.sync(() => {
        process.exitCode = 2
      })
    )
  )
)

NodeRuntime.runMain(Effect.provide(program, NodeServices.layer))
