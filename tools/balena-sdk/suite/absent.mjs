// Functions of the SDK that this server does not serve, each with the reason. coverage.mjs checks that the list is exact.
const billing = 'cloud only: there is nothing to pay for';
const signUp = 'cloud only: the administrator of a self-hosted server adds people (`roadsteadd admin user add`)';

export const absent = new Map([
	...['changePlan', 'createSetupIntent', 'downloadInvoice', 'getAccount', 'getBillingInfo', 'getInvoices', 'getPlan', 'removeBillingInfo',
		'updateAccountInfo', 'updateBillingInfo'].map((name) => [`models.billing.${name}`, billing]),
	['models.creditBundle.create', billing],
	['models.creditBundle.getAllByOrg', billing],
	['auth.register', signUp],
	['auth.verifyEmail', signUp],
	['auth.requestVerificationEmail', signUp],
	['models.device.startOsUpdate', 'cloud only: it asks an actions server of the vendor; `models.device.pinToOsRelease` sets the target here'],
	['models.os.download', 'not yet: the server keeps no OS images, and says so with 404'],
	['models.os.getDownloadSize', 'not yet: the server keeps no OS images, and says so with 404'],
]);
