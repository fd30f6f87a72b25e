import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Survival from "./Survival.ts"
import * as Outage from "./Outage.ts"
import * as Systems from "./Systems.ts"
import { writeFileSync } from "node:fs"

const program = Effect.gen(function* () {
  const failed = yield* Systems.install
  if (failed !== undefined) yield* Console.error(`npm ci: ${failed}`)
  if (process.argv[2] === "outage") {
    const seconds = Number(process.argv[3])
    const runs = yield* Effect.forEach(
      Systems.systems,
      (system) => Effect.scoped(Effect.flatMap(Systems.start(system), (running) => Outage.run(running, seconds))),
      { concurrency: 4 }
    )
    for (const { seconds, ...run } of runs) console.error(run)
    writeFileSync("/tmp/outage.json", JSON.stringify(runs))
    return
  }
  const running = yield* Effect.forEach(Systems.systems, Systems.start, { concurrency: 2 })
  const cells = yield* Survival.table(running, { concurrency: 3, progress: Console.error })
  writeFileSync(
    "/tmp/survival.json",
    JSON.stringify({ cells, unhandled: running.map((r) => [r.system.name, r.unhandled()]) }, null, 1)
  )
})
await Effect.runPromise(Effect.scoped(program))
