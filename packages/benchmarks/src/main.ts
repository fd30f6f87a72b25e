/**
 * Prints the figures of the performance contract. Without arguments a table; see `usage` for the rest.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import * as Adapter from "./Adapter.ts"
import * as Cache from "./Cache.ts"
import * as Chain from "./Chain.ts"
import { type Effort, keepsGoal, measure, type Result } from "./Measure.ts"
import * as Policies from "./Policies.ts"
import * as Streams from "./Streams.ts"

const usage = `Usage: npm run bench -- [--quick] [--json] [--only <name>]...

  --quick        fewer and shorter rounds, wider margins, nothing among 100 000 cached entries, no index.1m.cpu
  --json         one {"name","value","unit"} object per line and nothing else; value is the median
  --only <name>  only the figures whose name is or begins with this; may be repeated`

const full: Effort = { rounds: 41, sampleMillis: 40, warmUpMillis: 600, heapRounds: 5, heapShare: 1 }
const quick: Effort = { rounds: 15, sampleMillis: 20, warmUpMillis: 200, heapRounds: 3, heapShare: 0.5 }

const program = Effect.gen(function* () {
  const options = yield* Effect.try({
    try: () =>
      parseArgs({
        options: {
          quick: { type: "boolean", default: false },
          json: { type: "boolean", default: false },
          only: { type: "string", multiple: true, default: [] },
          help: { type: "boolean", default: false }
        }
      }).values,
    catch: (error) => new WrongArguments(error instanceof Error ? error.message : String(error))
  })
  if (options.help) return yield* Console.log(usage)

  if (globalThis.gc === undefined)
    return yield* Effect.fail(new WrongArguments("node must be started with --expose-gc"))

  const groups = yield* Effect.all([
    Chain.figures,
    Policies.figures,
    Streams.figures,
    Adapter.figures,
    Cache.figures,
    Cache.sizeFigures(options),
    Cache.indexFigures(options)
  ])
  const names = groups.flat().map(({ name }) => name)
  const unknown = options.only.find((prefix) => !names.some((name) => matches(name, prefix)))
  if (unknown !== undefined) {
    return yield* Effect.fail(
      new WrongArguments(`--only ${unknown} matches no figure; there are:\n  ${names.join("\n  ")}`)
    )
  }
  const wanted = (name: string) => options.only.length === 0 || options.only.some((prefix) => matches(name, prefix))

  if (!options.json) yield* Console.log(header)
  for (const group of groups) {
    const figures = group.filter(({ name }) => wanted(name))
    const results = yield* measure(figures, options.quick ? quick : full)
    yield* Console.log(results.map(options.json ? jsonLine : tableLine).join("\n")).pipe(
      Effect.when(Effect.succeed(results.length > 0))
    )
  }
})

class WrongArguments extends Error {}

const matches = (name: string, prefix: string): boolean => name === prefix || name.startsWith(`${prefix}.`)

const jsonLine = ({ figure, median, unit }: Result): string =>
  JSON.stringify({ name: figure.name, value: rounded(median, unit), unit })

// Adding zero turns -0 into 0. Beyond ten nanoseconds and whole bytes there is only noise.
const rounded = (value: number, unit: Result["unit"]): number => Number(value.toFixed(unit === "bytes" ? 0 : 2)) + 0

const columns = (cells: readonly [string, string, string, string, string, string, string, string]): string => {
  const [name, median, min, max, unit, goal, met, about] = cells
  return [
    name.padEnd(28),
    median.padStart(8),
    min.padStart(8),
    max.padStart(8),
    ` ${unit.padEnd(5)}`,
    goal.padStart(6),
    met.padEnd(6),
    about
  ].join(" ")
}

const header = columns(["figure", "median", "min", "max", "unit", "goal", "", "what it is"])

const tableLine = (result: Result): string => {
  const { figure, max, median, min, unit } = result
  const kept = keepsGoal(result)
  const number = (value: number) => rounded(value, unit).toFixed(unit === "bytes" ? 0 : 2)
  return columns([
    figure.name,
    number(median),
    number(min),
    number(max),
    unit,
    figure.goal === undefined ? "" : `<=${figure.goal}`,
    kept === undefined ? "" : kept ? "met" : "missed",
    figure.about
  ])
}

const exit = await Effect.runPromiseExit(
  Effect.scoped(program).pipe(
    Effect.catch((error) =>
      Effect.andThen(
        Console.error(`${error.message}\n\n${usage}`),
        Effect.sync(() => {
          process.exitCode = 2
        })
      )
    )
  )
)
if (exit._tag === "Failure") {
  console.error(exit.cause)
  process.exitCode = 1
}
