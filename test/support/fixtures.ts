import { Effect, Result, Schema } from "effect"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { deliveries, Fixture, replay, table } from "./fixtureRunner.ts"

// `npm run fixtures -- DIRECTORY` replays every answer in the JSON files of a directory through the adapters: whole, cut into pieces of seven
// bytes, and slowly. It prints the agreement per provider and class, and what disagrees.

const [directory] = process.argv.slice(2)
if (directory === undefined) {
  console.error("Usage: npm run fixtures -- DIRECTORY")
  process.exit(2)
}

const decode = Schema.decodeUnknownResult(Fixture)

const fixtures = readdirSync(directory)
  .filter((name) => name.endsWith(".json"))
  .toSorted()
  .flatMap((name) => {
    const content: unknown = JSON.parse(readFileSync(join(directory, name), "utf8"))
    const entries: ReadonlyArray<unknown> = Array.isArray(content) ? content : []
    const decoded = entries.map((entry) => decode(entry))
    const failed = decoded.filter((entry) => Result.isFailure(entry))
    if (failed.length > 0) {
      const reason = failed[0]?.failure.message.replaceAll("\n", " ")
      console.log(`${name}: ${failed.length} of ${entries.length} entries are no fixtures (${reason})`)
    }
    return decoded.flatMap((entry) => (Result.isSuccess(entry) ? [entry.success] : []))
  })

const outcomes = await Effect.runPromise(
  Effect.forEach(
    fixtures.flatMap((fixture) => deliveries.map((delivery) => [fixture, delivery] as const)),
    ([fixture, delivery]) => Effect.scoped(replay(fixture, delivery)),
    { concurrency: 8 }
  )
)

for (const line of table(outcomes)) console.log(line)
for (const { agrees, class: found, delivery, detail, differences, fixture } of outcomes) {
  if (agrees && differences.length === 0) continue
  console.log(`\n${fixture.id} (${delivery}): ${agrees ? found : `expected ${fixture.expect.class}, got ${found}`}`)
  console.log(`  ${detail}`)
  for (const difference of differences) console.log(`  ${difference}`)
}
if (outcomes.length === 0 || outcomes.some(({ agrees, differences }) => !agrees || differences.length > 0))
  process.exitCode = 1
